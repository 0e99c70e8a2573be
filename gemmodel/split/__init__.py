"""The split stage: training, validation and test part, test list, folds and mineral classes."""
