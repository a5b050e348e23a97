"""What a user sees of a study: status, logs, dashboards; and how to stop it."""
