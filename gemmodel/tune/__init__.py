"""Hyperparameter search: spaces, studies, trials, and their MLflow log."""
