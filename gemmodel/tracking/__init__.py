"""The MLflow run of a training, and the metrics on their way to it."""
