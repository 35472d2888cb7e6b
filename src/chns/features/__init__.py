"""Features: waveforms to what an encoder sees, as torch modules that are part of the exported model.

All are called as ``features(waveforms, lengths=None)`` and give (batch, frames, num_mels). One of your own needs the
same call, `num_mels`, `sample_rate_hz`, `frame_samples`, `hop_samples` and `frame_lengths(lengths)`.

| features | as computed by |
|---|---|
| `LogMel` | Kaldi, and WeSpeaker with ``window="hamming"`` |
| `DecibelMel` | SpeechBrain |
| `StandardisedMel` | ReDimNet2 |
"""

from chns.core import lazily

__getattr__, __all__ = lazily(__name__, {"chns.features.mels": "DecibelMel LogMel StandardisedMel"})
