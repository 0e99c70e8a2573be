"""What a model knows: scores and pictures."""
