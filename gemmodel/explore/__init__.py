"""The explore stage: components, clusters and maps of the features."""
