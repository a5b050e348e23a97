"""Ray Tune and Ray Train as placement of runs on machines."""
