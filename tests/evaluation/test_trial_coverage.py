"""Which trials a manifest can serve."""

from pathlib import Path

import numpy as np
import pytest

from chns.data.manifest import Manifest
from chns.evaluation.trials import Trials, read_trials, trial_coverage


@pytest.fixture
def manifest() -> Manifest:
    row = {"offset_seconds": 0.0, "duration_seconds": 1.0, "sample_rate_hz": 16_000}
    names = ["id1/v/1", "id1/v/2", "id2/v/1"]
    return Manifest.from_rows(
        [{**row, "utterance": name, "speaker": name[:3], "path": f"{name}.flac"} for name in names], root=Path("/x")
    )


def test_trials_remain_if_both_utterances_are_there(tmp_path, manifest):
    path = tmp_path / "list.txt"
    path.write_text(
        "1 id1/v/1.wav id1/v/2.wav\n0 id1/v/1.wav id2/v/9.wav\n0 id3/v/1.wav id2/v/1.wav\n0 id1/v/2.wav id2/v/1.wav\n"
    )
    coverage = trial_coverage(read_trials(path), manifest)
    assert (coverage.official_name, coverage.num_trials) == (None, 4)
    assert coverage.missing == ["id2/v/9.wav", "id3/v/1.wav"]
    files = coverage.write(tmp_path, "m.list")
    assert [file.name for file in files] == ["m.list.missing.txt", "m.list.txt"]
    assert files[0].read_text() == "id2/v/9.wav\nid3/v/1.wav\n"
    assert files[1].read_text() == "1 id1/v/1.wav id1/v/2.wav\n0 id1/v/2.wav id2/v/1.wav\n"


def test_nothing_is_written_if_nothing_is_missing(tmp_path, manifest):
    coverage = trial_coverage(Trials(["id1/v/1"], ["id2/v/1"], np.array([False])), manifest)
    assert (coverage.missing, len(coverage.remaining)) == ([], 1)
    assert coverage.write(tmp_path, "m") == []
    assert list(tmp_path.iterdir()) == []


def test_if_no_trial_remains_only_the_missing_are_written(tmp_path, manifest):
    coverage = trial_coverage(Trials(["x"], ["id1/v/1"], np.array([True])), manifest)
    assert [file.name for file in coverage.write(tmp_path, "m")] == ["m.missing.txt"]


def test_trials_without_labels_stay_without(tmp_path, manifest):
    coverage = trial_coverage(Trials(["x", "id1/v/1"], ["id1/v/1", "id1/v/2"], None), manifest)
    assert coverage.write(tmp_path, "m")[1].read_text() == "id1/v/1 id1/v/2\n"


@pytest.mark.parametrize(
    ("num_trials", "num_targets", "name"),
    [
        (37_611, 18_802, "Vox1-O (cleaned)"),
        (37_720, 18_860, "Vox1-O (original)"),
        (579_818, 289_921, "Vox1-E (cleaned)"),
        (581_480, 290_743, "Vox1-E (original)"),
        (550_894, 275_488, "Vox1-H (cleaned)"),
        (552_536, 276_270, "Vox1-H (original)"),
        (37_611, 18_803, None),
    ],
)
def test_the_official_lists_are_recognised(manifest, num_trials, num_targets, name):
    is_target = np.arange(num_trials) < num_targets
    trials = Trials(["id1/v/1"] * num_trials, ["id2/v/1"] * num_trials, is_target)
    assert trial_coverage(trials, manifest).official_name == name
