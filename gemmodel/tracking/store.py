"""Which MLflow store is in use. Does not import MLflow."""

import os

DEFAULT_URI = "sqlite:///mlflow.db"


def tracking_uri() -> str:
    """Returns the store's URI: the environment's MLFLOW_TRACKING_URI, or a file in the project's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
