"""Utterances that are parts of recordings."""

import math

import pytest

from chns.core.errors import AudioError
from chns.data.audio import AudioInfo
from chns.data.corpora.scan import Part

INFO = AudioInfo(num_frames=16_000, sample_rate_hz=8_000, num_channels=1)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part(), (0.0, 2.0)),
        (Part(0.5), (0.5, 1.5)),
        (Part(0.5, 0.1), (0.5, 0.1)),
        (Part(0.0, 2.0), (0.0, 2.0)),
        (Part(1.0, 1.09), (1.0, 1.0)),
        (Part(4_000, 800, in_samples=True), (0.5, 0.1)),
        (Part(4_000, in_samples=True), (0.5, 1.5)),
    ],
)
def test_a_part_lies_within_its_recording_and_may_overshoot_by_a_rounding(part, expected):
    assert part.within(INFO) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "part",
    [
        Part(2.0),
        Part(0.0, 2.2),
        Part(1.95, 0.2),
        Part(-0.1, 1.0),
        Part(0.0, 0.0),
        Part(0.0, -1.0),
        Part(math.inf),
        Part(0.0, math.nan),
        Part(16_000, 1, in_samples=True),
    ],
)
def test_a_part_elsewhere_is_refused(part):
    with pytest.raises(AudioError, match=r"utterance must lie within its recording of 2\.000 s, got .* s"):
        part.within(INFO)
