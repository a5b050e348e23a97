"""What is searched: one YAML file a method, and the schema of its dimensions."""
