"""Claims: how a worker comes to its jobs and keeps them: when to look, how many, claimed at once, leased."""
