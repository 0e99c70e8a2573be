"""The evaluate stage: scores on the test part, tables, pictures, and label issues of the other parts."""
