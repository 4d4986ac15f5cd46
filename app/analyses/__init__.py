"""Analyses: pure functions of frames, one module per question. No Redis, no clock, no global."""
