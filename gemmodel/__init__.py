"""A pipeline that crawls gemstone photos, trains a classifier, explains it and registers it in MLflow."""
