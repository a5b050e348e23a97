"""A run's weights as files for other programs, with metadata and a model card."""
