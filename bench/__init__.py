"""Benchmarks: our figure, the peers' and the ratio, measured in one run on one machine."""
