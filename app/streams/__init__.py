"""Streams and pub/sub: events, entries, notifications, and who hears them."""
