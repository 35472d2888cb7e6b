"""Voices of the synthetic corpus: points in the cube of the engine's settings, each speaker near its family's."""

from __future__ import annotations

import numpy as np

# What a voice consists of, each with the range that speakers of the world differ in. Percentages are of the engine's
# default; the engine scales consonants and vowels by them (docs/voices.md of eSpeak NG).
_VOICE_RANGES: dict[str, tuple[float, float]] = {
    "pitch_hz": (80.0, 210.0),
    "pitch_span": (1.2, 1.6),
    "vocal_tract_percent": (90.0, 112.0),
    "roughness": (0.0, 5.0),
    "flutter": (0.0, 10.0),
    "voicing_percent": (80.0, 130.0),
    "breath": (0.0, 6.0),
    "unvoiced_consonants_percent": (60.0, 130.0),
    "voiced_consonants_percent": (60.0, 130.0),
    "tone_low": (140.0, 210.0),
    "tone_middle": (100.0, 170.0),
    "tone_high": (70.0, 150.0),
    "rate_words_per_minute": (150.0, 185.0),
    **{f"frequency_{number}_percent": (94.0, 106.0) for number in range(1, 6)},
    **{f"height_{number}_percent": (70.0, 130.0) for number in range(9)},
    **{f"width_{number}_percent": (75.0, 140.0) for number in range(6)},
}


def member_voice(
    family_rng: np.random.Generator, member_rng: np.random.Generator, *, spread: float
) -> dict[str, float]:
    """A point around the family's in the unit cube, reflected at its walls, mapped to the ranges.

    Args:
        family_rng: Draws the family's point; the same for all its members.
        member_rng: Draws the way from there.
        spread: Standard deviation of that way, as a fraction of each setting's range.

    Returns:
        Each setting by its name.
    """
    centre = family_rng.uniform(size=len(_VOICE_RANGES))
    point = np.abs(centre + spread * member_rng.standard_normal(len(_VOICE_RANGES))) % 2
    point = np.minimum(point, 2 - point)
    return {
        name: low + (high - low) * float(position)
        for (name, (low, high)), position in zip(_VOICE_RANGES.items(), point, strict=True)
    }


def variant(voice: dict[str, float]) -> str:
    """The voice as lines of an eSpeak NG variant file, which takes whole numbers only."""
    lines = [
        f"pitch {voice['pitch_hz']:.0f} {voice['pitch_hz'] * voice['pitch_span']:.0f}",
        f"roughness {voice['roughness']:.0f}",
        f"flutter {voice['flutter']:.0f}",
        f"voicing {voice['voicing_percent']:.0f}",
        "breath" + f" {voice['breath']:.0f}" * 8,
        f"consonants {voice['unvoiced_consonants_percent']:.0f} {voice['voiced_consonants_percent']:.0f}",
        f"tone 600 {voice['tone_low']:.0f} 1200 {voice['tone_middle']:.0f} 2500 {voice['tone_high']:.0f}",
    ]
    for number in range(9):
        frequency = voice["vocal_tract_percent"] * voice.get(f"frequency_{number}_percent", 100.0) / 100
        height = voice[f"height_{number}_percent"]
        width = voice.get(f"width_{number}_percent", 100.0)
        lines.append(f"formant {number} {frequency:.0f} {height:.0f} {width:.0f}")
    return "\n".join(lines)
