"""The embed stage: backbones, the feature extractor, its LiteRT export and feature files."""
