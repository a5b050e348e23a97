"""What is searched: one YAML file a method, the schema of its dimensions, and the strict YAML reader of the project."""
