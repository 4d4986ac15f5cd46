"""The doctor: every hazard we know of Redis, arq and this deployment, looked for and explained."""
