"""An utterance that is a part of a longer recording, as lists state it."""

from __future__ import annotations

from typing import NamedTuple

from chns.data.audio import AudioInfo
from chns.errors import AudioError

MAX_OVERSHOOT_SECONDS = 0.1


class Part(NamedTuple):
    """Where an utterance lies in its recording.

    Attributes:
        start: Where it begins.
        duration: How long it is; None: up to the end of the recording.
        in_samples: Whether both count samples at the file's own rate; otherwise they are seconds.
    """

    start: float = 0.0
    duration: float | None = None
    in_samples: bool = False

    def within(self, info: AudioInfo) -> tuple[float, float]:
        """Offset and duration in seconds.

        Lists round, and decoders differ by a few frames, so a part that ends at most 0.1 s behind its recording is
        taken to end with it.

        Raises:
            AudioError: If the part is empty or does not lie in a recording with this header.
        """
        per_second = info.sample_rate_hz if self.in_samples else 1
        offset = self.start / per_second
        room = info.duration_seconds - offset
        duration = room if self.duration is None else self.duration / per_second
        overshoot = duration - room
        if not (offset >= 0 and duration > 0 and room > 0 and overshoot <= MAX_OVERSHOOT_SECONDS):
            raise AudioError(
                f"utterance must lie within its recording of {info.duration_seconds:.3f} s, "
                f"got {offset:.3f} to {offset + duration:.3f} s"
            )
        return offset, min(duration, room) if overshoot > 0 else duration
