"""Search for better settings: above models and delivery, since each of its trials is a training and a run."""
