"""The wire to Redis: clients by one recipe, round trips, scripts."""
