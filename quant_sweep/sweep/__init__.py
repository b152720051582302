"""One point of a sweep, from its config to its MLflow run."""
