"""Plots, tiles of photos, heat maps and HTML pages, for several stages."""
