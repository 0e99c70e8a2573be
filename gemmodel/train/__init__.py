"""The train stage: architectures by name, and how each is fitted."""
