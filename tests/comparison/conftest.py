"""A comparison small enough to be trained in a test: two strategies, two seeds, 14 speakers, 6 others to test on."""

from pathlib import Path

import pytest
import yaml
from small_models import LEAST

from chns.data.manifest import Manifest
from chns.evaluation.pairs import make_trials
from chns.evaluation.trials import write_trials


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, hum_manifest) -> Path:
    """Folder with train.parquet, test.parquet, and trials of the latter: easy.txt and few.txt."""
    folder = tmp_path_factory.mktemp("corpus")
    training, test = Manifest.read(hum_manifest).split_speakers(6, seed=0)
    training.write(folder / "train.parquet")
    test.write(folder / "test.parquet")
    for name, num_targets in (("easy", 10), ("few", 4)):
        trials = make_trials(test, targets_per_speaker=num_targets, num_nontargets=10 * num_targets, seed=1)
        write_trials(folder / f"{name}.txt", trials)
    return folder


@pytest.fixture(scope="session")
def tiny(configs, corpus) -> dict:
    """The content of a comparison's YAML file."""
    base = yaml.safe_load((configs / "tiny.yaml").read_text())
    base["encoder"] = yaml.safe_load(LEAST.read_text())["encoder"]
    base["data"] |= {"train": str(corpus / "train.parquet"), "held_out_speakers": 0, "crop_seconds": 0.5}
    base["batches"] = {"speakers_per_batch": 4, "utterances_per_speaker": 2, "steps_per_epoch": 4}
    base["clusters"] |= {"num_clusters": 3, "crop_seconds": 0.5}
    base["train"] |= {"epochs": 2, "device": "cpu"}
    return {
        "base": base,
        "strategies": {"supcon": {}, "chns": {"batches": {"kind": "clustered"}}},
        "seeds": [0, 1],
        "trial_lists": {
            name: {"manifest": str(corpus / "test.parquet"), "trials": str(corpus / f"{name}.txt")}
            for name in ("easy", "few")
        },
    }


@pytest.fixture
def write_yaml(tmp_path):
    """Writes settings to a YAML file."""

    def write(settings: dict) -> Path:
        path = tmp_path / "compare.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path

    return write
