"""Voiceprints of enrolled people in one file."""

from chns.core import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.store.content": "VoiceprintSearch export_voiceprints",
        "chns.store.encryption": "read_key",
        "chns.store.voiceprints": "Match VoiceprintStore identified lead_of plain_name unit_length",
    },
)
