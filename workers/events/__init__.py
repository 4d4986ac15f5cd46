"""Events at work: taken in from a stream, attempted in order, acknowledged or buried."""
