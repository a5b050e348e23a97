"""What is searched: one YAML file a method, the schema of its dimensions, the strict YAML reader."""
