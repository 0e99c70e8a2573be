"""The pictures of the sample site, ray traced and shaded."""
