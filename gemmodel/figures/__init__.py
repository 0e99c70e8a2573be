"""Plots, tiles of photos, heat maps and HTML pages that several stages draw."""
