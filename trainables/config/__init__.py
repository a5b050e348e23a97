"""Configuration: the fields of a run, the strict YAML reader, and error messages in plain words."""
