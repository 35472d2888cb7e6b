"""The section ``augmentation`` of a training run's settings, see `chns.config`. All is off by default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

CodecKind = Literal["telephone", "gsm", "mp3", "opus"]


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """Faster and slower speech, by resampling: length and pitch change together.

    Args:
        probability: How often a crop, under its own label, is played at one of the factors.
        factors: The speeds, each equally likely.
        new_speakers: Speeds at which each training speaker is one speaker more, e.g. [0.9, 1.1] for three times as
            many. Not together with a probability.
    """

    probability: float = 0.0
    factors: list[float] = field(default_factory=lambda: [0.9, 1.1])
    new_speakers: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ReverberationSettings:
    """A room around the voice.

    Args:
        probability: How often.
        folder: Room impulse responses, searched with all subfolders. By default they are made, without a download.
        rooms: So many rooms are simulated with pyroomacoustics when training starts; 0 makes a new response for each
            crop, from noise that decays.
        min_reverberation_seconds: Shortest decay by 60 dB of what is made.
        max_reverberation_seconds: Longest.
    """

    probability: float = 0.0
    folder: str | None = None
    rooms: int = 0
    min_reverberation_seconds: float = 0.2
    max_reverberation_seconds: float = 0.8


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """Noise, or music, under the voice. A crop has noise or music or babble or none, so probabilities add up.

    Args:
        probability: How often.
        folder: Recordings, searched with all subfolders, such as musan/noise. By default noise is generated, of a
            random colour; music has no default.
        min_snr_db: Loudest: lowest ratio of the voice to it.
        max_snr_db: Softest.
    """

    probability: float = 0.0
    folder: str | None = None
    min_snr_db: float = 0.0
    max_snr_db: float = 15.0


@dataclass(frozen=True, kw_only=True)
class BabbleSettings:
    """Other people under the voice.

    Args:
        probability: How often.
        folder: Recordings of speech, searched with all subfolders, such as musan/speech. By default, the training
            utterances.
        min_snr_db: Loudest: lowest ratio of the voice to all of them together.
        max_snr_db: Softest.
        min_voices: Fewest people.
        max_voices: Most.
    """

    probability: float = 0.0
    folder: str | None = None
    min_snr_db: float = 13.0
    max_snr_db: float = 20.0
    min_voices: int = 3
    max_voices: int = 7


@dataclass(frozen=True, kw_only=True)
class CodecSettings:
    """A line that the sound goes through.

    Args:
        probability: How often.
        kinds: Which lines, each equally likely: telephone (300 to 3,400 Hz, mu-law), gsm, mp3, opus. Encoding takes
            time, above all opus, which therefore has to be asked for: see benchmarks/augmentation.py.
    """

    probability: float = 0.0
    kinds: list[CodecKind] = field(default_factory=lambda: ["telephone", "gsm", "mp3"])


@dataclass(frozen=True, kw_only=True)
class GainSettings:
    """The volume. Features whose mean is subtracted, the default, hardly hear it.

    Args:
        probability: How often.
        min_gain_db: Smallest gain.
        max_gain_db: Largest gain; what would clip is turned down.
    """

    probability: float = 0.0
    min_gain_db: float = -10.0
    max_gain_db: float = 6.0


@dataclass(frozen=True, kw_only=True)
class SpecAugmentSettings:
    """Stripes of the features that are hidden, on the device.

    Args:
        probability: How often.
        time_masks: Stripes of frames.
        max_mask_frames: Widest of them.
        mel_masks: Stripes of mels.
        max_mask_mels: Widest of them.
    """

    probability: float = 0.0
    time_masks: int = 1
    max_mask_frames: int = 10
    mel_masks: int = 1
    max_mask_mels: int = 8


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """What training crops go through, in this order; by default nothing, as in the paper.

    Args:
        speed: Faster and slower speech.
        reverberation: A room.
        noise: Noise under the voice.
        music: Music under the voice.
        babble: Other people under the voice.
        codec: The line.
        gain: The volume.
        spec_augment: Masks on the features.
    """

    speed: SpeedSettings = field(default_factory=SpeedSettings)
    reverberation: ReverberationSettings = field(default_factory=ReverberationSettings)
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    music: NoiseSettings = field(default_factory=lambda: NoiseSettings(min_snr_db=5.0))
    babble: BabbleSettings = field(default_factory=BabbleSettings)
    codec: CodecSettings = field(default_factory=CodecSettings)
    gain: GainSettings = field(default_factory=GainSettings)
    spec_augment: SpecAugmentSettings = field(default_factory=SpecAugmentSettings)
