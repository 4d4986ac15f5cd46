"""Sampling: numbers read from every Redis at one moment, and the frames made of them."""
