"""Where runs and models are logged. This module does not import MLflow, which takes seconds."""

import os

DEFAULT_URI = "sqlite:///mlflow.db"  # a relative path: the file lies in the project's root


def tracking_uri() -> str:
    """Returns the URI of the MLflow store: MLFLOW_TRACKING_URI, or `DEFAULT_URI` where that is not set or empty."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
