"""What generated images are worth: runs that train a classifier on real and generated images of a prepared data set."""
