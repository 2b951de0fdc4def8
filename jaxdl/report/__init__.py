"""The page of a run: what it was, how it went, what it got wrong, in one file."""
