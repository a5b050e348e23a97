"""What generated images are worth to a classifier: scores on test images, over seeds of classifiers and generators."""
