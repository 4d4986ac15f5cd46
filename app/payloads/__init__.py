"""Payloads: their codec, what they say to people, and what of them nobody may see."""
