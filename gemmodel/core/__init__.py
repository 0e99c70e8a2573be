"""What every package shares: errors, parameters, files, image folders and hashes."""
