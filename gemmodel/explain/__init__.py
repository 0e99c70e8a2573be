"""The explain stage: the parts of a photo that support a prediction, and the cues that the model uses."""
