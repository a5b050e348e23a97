"""MLflow: a view of the runs' own records that is kept up to date from a background thread, or rebuilt."""
