"""The clean stage: which photos are fit to train on, and why the others are rejected."""
