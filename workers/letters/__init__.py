"""Open dead letters: walked without missing any, decided round by round, relieved when they are too many."""
