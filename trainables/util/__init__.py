"""Text as users write it, and what a command puts right in its own process."""
