"""What kernel ridge regression is made of: kernel, Nyström method, calibration."""
