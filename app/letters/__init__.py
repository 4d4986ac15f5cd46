"""Dead letters and their causes: which are meant, what may become of them. The shelf and its scripts."""
