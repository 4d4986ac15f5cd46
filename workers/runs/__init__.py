"""Runs: what happens between the claim of a job and its end: the function called, the end decided, recorded, told."""
