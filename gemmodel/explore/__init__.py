"""The explore stage: principal components, clusters and maps of the features."""
