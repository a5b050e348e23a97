"""Classifiers by which generated images are judged: networks, losses, training in equal steps, scores."""
