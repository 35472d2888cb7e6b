"""Recordings packed into tar files: written by ``pack.py``, read where a recording is opened, by ``recording.py``."""
