"""What a trained model is: its graph, metadata, thresholds, and its files on disk."""
