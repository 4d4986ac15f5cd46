"""Frames and dead letters as files for people and other programs."""
