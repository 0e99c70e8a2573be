"""Image backbones: each a model from pixels in [0, 255] to feature maps and vectors."""
