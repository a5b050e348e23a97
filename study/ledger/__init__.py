"""Optuna's storage: the truth of which trials exist and how they ended."""
