"""A small web site of rendered gem pictures, with minerals.net's page structure, for crawls without a network."""
