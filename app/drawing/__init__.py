"""How frames become pictures: what every chart stands on, and small SVGs of our own."""
