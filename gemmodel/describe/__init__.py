"""The describe stage: the data report."""
