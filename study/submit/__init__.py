"""A study that is handed to a cluster through Ray's job API."""
