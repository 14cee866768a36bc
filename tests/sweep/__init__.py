"""Stories cancelled at every step: whatever the moment, nothing is left."""
