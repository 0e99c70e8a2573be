"""The report stage: the index page and the model card."""
