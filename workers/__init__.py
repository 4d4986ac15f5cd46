"""The processes that do the work: workers, event processor, dead-letter processor."""
