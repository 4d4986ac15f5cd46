"""Jobs as people look them up: lists, one job, what is known about it. Reads only."""
