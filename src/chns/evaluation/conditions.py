"""The same trials under worse conditions: test utterances that are shorter, noisier, or went through a line.

The enrolment stays as it was recorded, as where somebody enrols at a desk and is heard in a street; only the test side
changes, one condition at a time. What is drawn for an utterance (the place of the cut, the noise, the bit rate) follows
from its name alone: a sweep gives the same numbers again, two models hear the same sounds, and at two signal-to-noise
ratios an utterance has the same noise, so that a difference is one of level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chns.core import BoolArray, number, quoted
from chns.data import CODECS, Codec, ColouredNoise, NoiseSource, RecordingFolder, Waveform, mix_at_snr, without_clipping
from chns.evaluation.intervals import Interval, interval
from chns.evaluation.metrics import REPORTED_P_TARGETS
from chns.evaluation.speaker_bootstrap import bootstrap_metrics

AS_RECORDED = "as recorded"
_UNITS = {"duration": " s", "snr": " dB", "codec": ""}
_RANGES = {"duration": (0.1, 180.0), "snr": (-50.0, 100.0)}


@dataclass(frozen=True)
class Condition:
    """What is done to the test utterances: it may be called in any loader worker.

    Attributes:
        axis: ``duration``: a part of so many seconds, all of a shorter one; ``snr``: noise so many decibels below the
            speech; ``codec``: one of `chns.data.augmentation.effects.CODECS`.
        value: Seconds, decibels, or the name of the codec, as it was typed.
        sample_rate_hz: Of the waveforms.
        noise: Where the noise comes from.
    """

    axis: str
    value: str
    sample_rate_hz: int
    noise: NoiseSource

    @property
    def name(self) -> str:
        """In words, such as ``snr 10 dB``."""
        return f"{self.axis} {self.value}{_UNITS[self.axis]}"

    def __call__(self, waveform: Waveform, utterance: str) -> Waveform:
        """The waveform of an utterance under this condition.

        Raises:
            FileNotFoundError, AudioError: If a recording of a noise is gone or cannot be read.
        """
        digest = hashlib.blake2b(f"{self.axis} {utterance}".encode(errors="surrogatepass"), digest_size=16).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "little"))
        if self.axis == "duration":
            num_samples = round(float(self.value) * self.sample_rate_hz)
            start = int(rng.random() * max(0, len(waveform) - num_samples))
            return waveform[start : start + num_samples]
        if self.axis == "snr":
            noise, _ = self.noise(len(waveform), rng)
            return without_clipping(mix_at_snr(waveform, noise, float(self.value)))
        line = Codec(probability=1.0, kinds=[self.value], sample_rate_hz=self.sample_rate_hz)
        return line(waveform, rng)[0]


def sweep_conditions(axes: Sequence[str], *, sample_rate_hz: int, noise_folder: Path | None = None) -> list[Condition]:
    """The conditions that words like ``duration=1,2,3`` name, in their order.

    Args:
        axes: ``duration=SECONDS,...``, ``snr=DECIBELS,...`` and ``codec=NAME,...``, each at most once.
        sample_rate_hz: Of the model.
        noise_folder: Recordings to take the noise from; by default it is generated, of any colour from white to brown.

    Raises:
        ValueError: If a word is none of these, an axis or a value is there twice, or a value is out of range.
        FileNotFoundError, AudioError: If there is no such folder, or no recording in it.
    """
    if noise_folder is not None and not any(axis.startswith("snr=") for axis in axes):
        raise ValueError(f"--noise must come with snr=..., got {noise_folder} without. It says which noise to add.")
    noise: NoiseSource = ColouredNoise(sample_rate_hz=sample_rate_hz)
    if noise_folder is not None:
        noise = RecordingFolder(noise_folder, sample_rate_hz=sample_rate_hz)
    named = [(axis, value) for word in axes for axis, value in _values(word)]
    twice = sorted({f"{axis}={value}" for axis, value in named if named.count((axis, value)) > 1})
    if twice:
        raise ValueError(f"--sweep must name each condition once, got {twice[0]} twice.")
    return [Condition(axis, value, sample_rate_hz, noise) for axis, value in named]


def _values(word: str) -> Iterator[tuple[str, str]]:
    axis, _, values = word.partition("=")
    if axis not in _UNITS or not values:
        raise ValueError(f"--sweep must be given like duration=1,2 snr=20,10 codec=opus, got {quoted(word)}.")
    for value in values.split(","):
        if axis == "codec":
            if value not in CODECS:
                raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {quoted(value)}.")
        else:
            low, high = _RANGES[axis]
            try:
                fits = low <= number(value) <= high
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(f"{axis} must be a number from {low:g} to {high:g}, got {quoted(value)}.")
        yield axis, value


@dataclass(frozen=True, kw_only=True)
class ConditionRates:
    """Error rates under one condition.

    Attributes:
        name: In words.
        axis: ``duration``, ``snr`` or ``codec``; empty as recorded.
        value: As it was typed.
        rates: ``eer`` (a fraction) and ``min_dcf_0.01``, ...
        difference: The same minus as recorded, on the same resamples of the speakers.
        unchanged: How many test utterances are as recorded, since they are shorter than the wanted duration.
    """

    name: str
    axis: str
    value: str
    rates: Mapping[str, Interval]
    difference: Mapping[str, Interval]
    unchanged: int

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return {
            "name": self.name,
            "axis": self.axis,
            "value": self.value,
            "rates": {name: one.to_json() for name, one in self.rates.items()},
            "difference": {name: one.to_json() for name, one in self.difference.items()},
            "unchanged": self.unchanged,
        }


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Error rates of one model on the same trials under several conditions; the first is as recorded.

    Attributes:
        conditions: In the order in which they were asked for.
        noise: Where the noise comes from, in words.
        test_utterances: How many different ones are changed.
        speakers: How many the trials have.
    """

    conditions: Sequence[ConditionRates]
    noise: str
    test_utterances: int
    speakers: int

    def to_json(self) -> dict[str, object]:
        """All of it, under one key."""
        return {
            "sweep": {
                "changed": "test",
                "noise": self.noise,
                "test_utterances": self.test_utterances,
                "speakers": self.speakers,
                "conditions": [condition.to_json() for condition in self.conditions],
            }
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"sweep: {self.test_utterances:,} test utterances changed, the enrolment as recorded; 95 % intervals over "
            f"{self.speakers:,} speakers"
        )
        costs = [name for name in self.conditions[0].rates if name != "eer"]
        width = max(len(one.name) for one in self.conditions)
        titles = "".join(f"  {'minDCF ' + cost.removeprefix('min_dcf_'):<12}" for cost in costs)
        yield f"{'condition':<{width}}  {'EER':<26}{titles}  EER minus that {AS_RECORDED}"
        for one in self.conditions:
            values = "".join(f"  {one.rates[cost].estimate:<12.4f}" for cost in costs)
            difference = one.difference["eer"].in_points() if one.axis else "-"
            short = f", {one.unchanged:,} shorter and whole" if one.unchanged else ""
            yield f"{one.name:<{width}}  {format(one.rates['eer'], '.2%'):<26}{values}  {difference}{short}"
        if any(one.axis == "snr" for one in self.conditions):
            yield f"noise: {self.noise}"


def noise_in_words(noise_folder: Path | None) -> str:
    """The stated source of the noise."""
    if noise_folder is None:
        return "generated, of any colour from white to brown, the same for an utterance at all ratios"
    return f"a part of a recording of {noise_folder.name}, the same for an utterance at all ratios"


def sweep_rates(
    scores: npt.ArrayLike,
    is_target: BoolArray,
    speakers: tuple[npt.ArrayLike, npt.ArrayLike],
    conditions: Sequence[Condition],
    *,
    noise: str,
    test_seconds: npt.ArrayLike,
    num_resamples: int = 1000,
) -> Sweep:
    """Error rates of the scores under each condition, with 95 % intervals.

    Args:
        scores: As recorded, then under each condition, shape (1 + conditions, trials).
        is_target: Whether each trial is one speaker, shape (trials,).
        speakers: Speaker of each trial's enrolment, and of its test utterance, each of shape (trials,).
        conditions: In this order.
        noise: Where it comes from, in words.
        test_seconds: Durations of the different test utterances, shape (utterances,).
        num_resamples: Resamples of the speakers.

    Raises:
        ValueError: As `chns.evaluation.speaker_bootstrap.bootstrap_metrics`.
    """
    metrics = bootstrap_metrics(scores, is_target, *speakers, num_resamples=num_resamples, p_targets=REPORTED_P_TARGETS)
    seconds = np.asarray(test_seconds, np.float64)
    rated = []
    for row in range(1 + len(conditions)):
        condition = conditions[row - 1] if row else None
        rates, difference = {}, {}
        for name, drawn in metrics.resampled.items():
            estimate = metrics.estimate[name]
            rates[name] = interval(float(estimate[row]), drawn[row])
            if row:
                difference[name] = interval(float(estimate[row] - estimate[0]), drawn[row] - drawn[0])
        is_cut = condition is not None and condition.axis == "duration"
        rated.append(
            ConditionRates(
                name=condition.name if condition else AS_RECORDED,
                axis=condition.axis if condition else "",
                value=condition.value if condition else "",
                rates=rates,
                difference=difference,
                unchanged=int((seconds <= float(condition.value)).sum()) if condition and is_cut else 0,
            )
        )
    num_speakers = len(np.union1d(*speakers))
    return Sweep(conditions=rated, noise=noise, test_utterances=len(seconds), speakers=num_speakers)
