"""Rows and frames of runs, from their folders, MLflow or CSV files."""
