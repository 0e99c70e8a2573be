"""The report stage: the index page of a run and the model card."""
