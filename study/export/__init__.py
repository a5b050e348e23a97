"""Weights across programs: a run's as files for others, with a model card, and others' judged by a study's plan."""
