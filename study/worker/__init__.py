"""One attempt at a run in one process, without Ray."""
