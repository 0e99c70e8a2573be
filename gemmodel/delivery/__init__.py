"""Where results go: the experiment log and the model registry."""
