"""The commands of docs/fine_tuning.md, in their order, on a tiny corpus and a stand-in of the published model."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from published_models import speechbrain_files

from chns.bundle.bundle import load_bundle
from chns.cli import main
from chns.data.manifest import Manifest

PAGE = Path(__file__).parents[2] / "docs" / "fine_tuning.md"
SMALLER = {  # what a corpus of 20 speakers and a test need to be smaller
    "train": "--train.device cpu --data.num_workers 0 --data.crop_seconds 0.5 --batches.speakers_per_batch 4 "
    "--batches.steps_per_epoch 2 --train.epochs 3 --clusters.num_clusters 2 --train.validation_trials 40",
    "trials": "--nontargets 100",
    "evaluate": "--workers 0",
    "calibrate": "--workers 0",
}
FEWER = {"split": {"40": "6", "20": "4"}, "trials": {"20": "2"}}


def commands():
    """The words of each command, with lines that go on joined."""
    text = PAGE.read_text().replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(r"^\$ chns (.+)$", text, re.MULTILINE)]


@pytest.fixture
def recordings(tmp_path, hum_manifest):
    """Twenty speakers, one of them called anna, five recordings each, numbered from 1."""
    for row, name in enumerate(sorted({path.parent.name for path in hum_manifest.parent.glob("*/*.flac")})):
        folder = tmp_path / "recordings" / ("anna" if row == 0 else name)
        folder.mkdir(parents=True)
        for number, path in enumerate(sorted((hum_manifest.parent / name).iterdir()), start=1):
            shutil.copy(path, folder / f"{number}.{'wav' if row == 0 else 'flac'}")
    return tmp_path


@pytest.mark.slow
def test_the_page_works_from_its_first_command_to_its_last(recordings, hub, monkeypatch, capsys):
    monkeypatch.chdir(recordings)
    hub.repository("speechbrain/spkrec-ecapa-voxceleb").commit(speechbrain_files())
    done = []
    for name, *written in commands():
        words = [name, *(FEWER.get(name, {}).get(word, word) for word in written), *SMALLER.get(name, "").split()]
        code = main(words)
        assert code in ((0, 1) if name == "verify" else (0,)), (words, capsys.readouterr().err)
        done.append(name)
    assert done.count("train") == 2
    assert {"import", "evaluate", "metrics", "calibrate", "verify"} < set(done)
    published, tuned = load_bundle("published").model.encoder, load_bundle("runs/tuned/model").model.encoder
    state, before = tuned.state_dict(), published.state_dict()
    moved = {name for name in state if not state[name].equal(before[name])}
    assert not [name for name in moved if name.startswith("first.")]  # frozen, running statistics too
    assert "embedding.weight" in moved
    settings = load_bundle("runs/margin/model").training["settings"]
    assert settings["loss"]["settings"]["margin"] == 0.2
    assert settings["train"]["average_last"] == 3
    assert len(Manifest.read(Path("test.parquet")).speakers) == 6
