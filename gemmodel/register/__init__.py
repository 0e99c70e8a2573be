"""The register stage: MLflow's model registry, champion and challenger."""
