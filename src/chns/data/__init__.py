"""Recordings: the table of utterances, decoding, crops, and corpus preparation."""
