"""The clean stage: which photos can be used for training, and why the others are rejected."""
