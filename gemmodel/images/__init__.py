"""From a photo's file to pixels: decoding, cropping, augmentation, perceptual hashes."""
