"""What each effect of the augmentation costs: crops a second of one core (processor time), alone and all together.

The recordings are those of `--data` or of the folder that CHNS_DATA names, or noise if there is neither, written anew
as FLAC; so are two folders of noises and room responses. Effects are on for every crop, but for `augmented`,
which has probabilities: five times as many of its crops are cut, as some kinds are rare. The same from shards of WAV
(`chns pack --format wav`) is measured beside it.

    python benchmarks/augmentation.py [--data FOLDER] [--recordings 100] [--out augmentation.json]
"""

import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from jsonargparse import ArgumentParser
from loader import manifest_of, recordings
from report import Ratio, parser, publish, take_turns

from chns.core import config_path
from chns.data.audio import write_audio
from chns.data.dataset import CropRequest, SpeakerCrops
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards
from chns.training.augmenting import augmented_crops
from chns.training.settings import TrainSettings

RATE_HZ, CROP_SECONDS = 16_000, 3.0
OVERLAY = config_path("augmented")


def settings_of(augmentation: dict[str, object]) -> TrainSettings:
    """Settings with this section."""
    reader = ArgumentParser()
    reader.add_class_arguments(TrainSettings)
    made = reader.instantiate(reader.parse_object({"augmentation": augmentation}))
    return TrainSettings(**{name: made[name] for name in TrainSettings.__dataclass_fields__})


def fabricate_folders(root: Path) -> tuple[str, str]:
    """Noises of 20 s and room responses of 0.6 s."""
    rng = np.random.default_rng(0)
    for number in range(20):
        noise = 0.1 * rng.standard_normal(20 * RATE_HZ).astype(np.float32)
        write_audio(root / "noise" / f"{number}.wav", noise, sample_rate_hz=RATE_HZ)
        decay = 0.1 * rng.standard_normal(10_000) * np.exp(-np.arange(10_000) / 1_500)
        decay[0] = 0.9
        write_audio(root / "rooms" / f"{number}.wav", decay.astype(np.float32), sample_rate_hz=RATE_HZ)
    return str(root / "noise"), str(root / "rooms")


def effects(root: Path) -> dict[str, dict[str, object]]:
    """Each effect on every crop."""
    noise, rooms = fabricate_folders(root)
    always = {"probability": 1.0}
    return {
        "none": {},
        "speed": {"speed": always},
        "reverberation, synthetic decay": {"reverberation": always},
        "reverberation, folder": {"reverberation": {**always, "folder": rooms}},
        "noise, coloured": {"noise": always},
        "noise, folder": {"noise": {**always, "folder": noise}},
        "babble, training utterances": {"babble": always},
        "babble, folder": {"babble": {**always, "folder": noise}},
        **{f"codec, {kind}": {"codec": {**always, "kinds": [kind]}} for kind in ("telephone", "gsm", "mp3", "opus")},
        "gain": {"gain": always},
        "augmented": yaml.safe_load(OVERLAY.read_text(encoding="utf-8"))["augmentation"],
    }


def crops_of(augmentation: dict[str, object], manifest: Manifest) -> SpeakerCrops:
    """Crops with these effects."""
    return augmented_crops(settings_of(augmentation), manifest, sample_rate_hz=RATE_HZ)


def cut(crops: SpeakerCrops, requests: list[CropRequest]) -> None:
    """All of them, one after the other."""
    for request in requests:
        crops[request]


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="augmentation.json", repeats=5)
    default = Path(os.environ["CHNS_DATA"]) if "CHNS_DATA" in os.environ else None
    options.add_argument("--data", type=Path, default=default)
    options.add_argument("--recordings", type=int, default=100)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        manifest = manifest_of(recordings(arguments.data, arguments.recordings), root, "flac")
        packed = pack_shards(manifest, root / "packed", format="wav", jobs=1).manifest
        sections = effects(root / "sounds")
        sides = {label: crops_of(section, manifest) for label, section in sections.items()}
        sides |= {f"{label}, packed as WAV": crops_of(sections[label], packed) for label in ("none", "augmented")}
        requests = {
            label: [
                CropRequest(number % len(manifest), (0, number))
                for number in range(arguments.recordings * (5 if label.startswith("augmented") else 1))
            ]
            for label in sides
        }
        read = take_turns(
            {label: partial(cut, crops, requests[label]) for label, crops in sides.items()},
            repeats=arguments.repeats,
            clock=time.process_time,
        )
    seconds = {label: timing.median / len(requests[label]) for label, timing in read.items()}
    rows = {
        label: {"crops/s, median": 1 / each, "ms more a crop": max(0.0, 1e3 * (each - seconds["none"]))}
        for label, each in seconds.items()
    }
    ratios = [
        Ratio("augmented / none, seconds a crop", seconds["augmented"] / seconds["none"]),
        Ratio(
            "augmented, packed as WAV / none from FLAC, seconds a crop",
            seconds["augmented, packed as WAV"] / seconds["none"],
        ),
    ]
    source = "noise" if arguments.data is None else "real recordings"
    publish(arguments.out, f"crops of {CROP_SECONDS} s from FLAC, {source}", rows, ratios, source=source)


if __name__ == "__main__":
    main()
