"""Photos on their way from a raw folder to batches."""
