"""Which runs happen and what they mean: the study file, the plan, the ledger, Ray, MLflow, results and reports."""
