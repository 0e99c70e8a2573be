"""Renders the pictures of the sample site: ray-traced faceted stones and shaded cabochons."""
