"""The engine: arq's worker, with its loop, claim, run and finish replaced, and what it looks after beside jobs."""
