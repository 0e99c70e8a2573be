"""A small web site of rendered gem pictures with minerals.net's page structure, to crawl without a network."""
