"""The study file: its sections and rules, and how a launched study is found again."""
