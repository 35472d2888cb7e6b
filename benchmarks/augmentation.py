"""What each effect of the augmentation costs: crops a second of one core (processor time), alone and all together.

The recordings are those of `--data` or of the folder that CHNS_DATA names, or noise if there is neither, written anew
as FLAC; so are two folders of noises and room responses. Effects are on for every crop, but for `augmented`,
which has probabilities. Its dearest kinds are rare, so 4,000 of its crops are cut (of 500, one set of seeds sent 3.2 %
through MP3 and another 2.2 %), by turns of 100 with as many plain ones; the ratio is that of the means. The same from
shards of WAV (`chns pack --format wav`) is measured beside it.

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
from report import Ratio, parser, publish, seconds_of, take_turns

from chns.core import config_path
from chns.data.audio import write_audio
from chns.data.dataset import CropRequest, SpeakerCrops
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards
from chns.training.augmenting import augmented_crops
from chns.training.settings import TrainSettings

RATE_HZ, CROP_SECONDS = 16_000, 3.0
TURN_CROPS, WARM_UP_TURNS = 100, 5
MIXED = "augmented"


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
        MIXED: yaml.safe_load(config_path(MIXED).read_text(encoding="utf-8"))["augmentation"],
    }


def crops_of(augmentation: dict[str, object], manifest: Manifest) -> SpeakerCrops:
    """Crops with these effects."""
    return augmented_crops(settings_of(augmentation), manifest, sample_rate_hz=RATE_HZ)


def cut(crops: SpeakerCrops, requests: list[CropRequest]) -> None:
    """All of them, as a loader's worker cuts a batch."""
    crops.__getitems__(requests)


def milliseconds_in_turns(
    sides: dict[str, SpeakerCrops], num_utterances: int, num_turns: int
) -> dict[str, list[float]]:
    """What a crop of each side takes, in each turn; the same crops on all sides, others in each turn."""
    turns: dict[str, list[float]] = {label: [] for label in sides}
    for turn in range(WARM_UP_TURNS + num_turns):
        numbers = range(TURN_CROPS * turn, TURN_CROPS * (turn + 1))
        requests = [CropRequest(number % num_utterances, (1, number)) for number in numbers]
        for label, crops in sides.items():
            seconds = seconds_of(partial(cut, crops, requests), time.process_time)
            if turn >= WARM_UP_TURNS:
                turns[label].append(1e3 * seconds / TURN_CROPS)
    return turns


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="augmentation.json", repeats=5)
    default = Path(os.environ["CHNS_DATA"]) if "CHNS_DATA" in os.environ else None
    options.add_argument("--data", type=Path, default=default)
    options.add_argument("--recordings", type=int, default=100)
    options.add_argument("--turns", type=int, default=40, help="of 100 crops with the probabilities of augmented")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        manifest = manifest_of(recordings(arguments.data, arguments.recordings), root, "flac")
        packed = pack_shards(manifest, root / "packed", format="wav", jobs=1).manifest
        sections = effects(root / "sounds")
        sides = {label: crops_of(section, manifest) for label, section in sections.items()}
        mixed = {label: sides[label] for label in ("none", MIXED)}
        mixed |= {f"{label}, packed as WAV": crops_of(sections[label], packed) for label in ("none", MIXED)}
        requests = [CropRequest(number % len(manifest), (0, number)) for number in range(arguments.recordings)]
        read = take_turns(
            {label: partial(cut, crops, requests) for label, crops in sides.items() if label != MIXED},
            repeats=arguments.repeats,
            clock=time.process_time,
        )
        milliseconds = {label: 1e3 * timing.median / len(requests) for label, timing in read.items()}
        turns = milliseconds_in_turns(mixed, len(manifest), arguments.turns)
    means = {label: float(np.mean(each)) for label, each in turns.items()}
    rows = {
        label: {"ms a crop": each, "ms more": max(0.0, each - milliseconds["none"])}
        for label, each in milliseconds.items()
    }
    rows |= {
        f"{label}, in turns": {"ms a crop": each, "ms more": max(0.0, each - means["none"])}
        for label, each in means.items()
    }
    ratios = [
        Ratio(f"{MIXED} / none, ms a crop", means[MIXED] / means["none"]),
        Ratio(f"{MIXED} / none, ms a crop, packed as WAV / FLAC", means[f"{MIXED}, packed as WAV"] / means["none"]),
    ]
    source = "noise" if arguments.data is None else "real recordings"
    publish(arguments.out, f"crops of {CROP_SECONDS} s from FLAC, {source}", rows, ratios, source=source)


if __name__ == "__main__":
    main()
