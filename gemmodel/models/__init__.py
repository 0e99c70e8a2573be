"""Networks: backbones, features, classifiers and their training."""
