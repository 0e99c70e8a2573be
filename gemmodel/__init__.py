"""Gemstone photos in, an honest and registered classifier out."""
