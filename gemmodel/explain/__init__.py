"""The explain stage: which parts of a photo a prediction rests on."""
