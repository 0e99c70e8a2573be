"""Predictions for people: the predictor, the web page and HTTP."""
