"""What runs next, and what a worker's death means for its run, without Ray."""
