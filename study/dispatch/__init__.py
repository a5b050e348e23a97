"""What runs next, without Ray."""
