"""The stored past: minutes, hours and days of numbers, written by one and read by all."""
