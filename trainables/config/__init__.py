"""Fields of a run (`frozen.py`: unknown ones are refused), the YAML reader, error messages in plain words."""
