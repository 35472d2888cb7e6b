"""Voiceprints of enrolled people in one file."""
