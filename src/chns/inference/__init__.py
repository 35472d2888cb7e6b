"""Use a trained model: verify, enrol, identify, stream, export. Imports nothing of the training."""
