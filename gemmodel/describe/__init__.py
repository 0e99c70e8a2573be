"""The describe stage: the report about the data."""
