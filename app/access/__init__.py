"""Who somebody is and what they may call: below the guard (``auth``), which asks on every request."""
