"""What a training left behind: read as it is, and damage is named."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

from chns.core import RunFolderError
from chns.sampling import SpeakerClusters
from chns.training.folder import RunFolder, config_text, read_settings
from chns.training.log import COLUMNS, RunLog
from chns.training.settings import (
    AugmentationSettings,
    BatchSettings,
    DataSettings,
    ReverberationSettings,
    TrainingSettings,
    TrainSettings,
)

SETTINGS = TrainSettings(batches=BatchSettings(kind="clustered"))


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(asdict(SETTINGS)))
    return RunFolder.open(tmp_path)


def test_a_run_that_was_just_begun_has_settings_and_nothing_else(run):
    assert run.settings == asdict(SETTINGS)
    assert not run.is_finished
    assert run.summary() == {}
    assert run.scores() == {}
    assert run.clusters() is None
    assert run.steps_done() == 0
    assert run.decisions() == []
    assert run.model == run.path / "model"


def test_a_folder_of_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run must be the folder of a training, with config\.yaml, got"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", r"config\.yaml must be YAML, got something else in .*config\.yaml"),
        (b"\xff", r"config\.yaml must be YAML, got something else"),
        (b"- 1", r"config\.yaml must hold settings, got list in"),
    ],
)
def test_damaged_settings_are_named(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(RunFolderError, match=message):
        RunFolder.open(tmp_path)


def test_the_log_has_every_column_and_nan_where_nothing_was_measured(run):
    with RunLog(run.path, first_step=0) as log:
        log.write(10, 0, {"loss": 1.5, "hard_ratio": 0.0})
        log.write(20, 1, {"validation_eer": 0.25})
    columns = run.log()
    assert set(columns) == set(COLUMNS)
    np.testing.assert_array_equal(columns["step"], [10, 20])
    np.testing.assert_array_equal(columns["loss"], [1.5, np.nan])
    np.testing.assert_array_equal(columns["validation_eer"], [np.nan, 0.25])
    assert run.steps_done() == 20


def test_a_log_cut_short_is_read_as_far_as_it_goes(run):
    (run.path / "log.csv").write_text("step,epoch,loss\n10,0,1.5\n20,")
    assert run.steps_done() == 20
    np.testing.assert_array_equal(run.log()["loss"], [1.5, np.nan])
    (run.path / "log.csv").write_text("step,epoch,loss\n")
    assert run.steps_done() == 0


def test_decisions_are_the_lines_of_their_file(run):
    (run.path / "decisions.txt").write_text("epoch 1: hard ratio 0 -> 0.5\n\nepoch 2: grouping\n")
    assert run.decisions() == ["epoch 1: hard ratio 0 -> 0.5", "epoch 2: grouping"]


def test_decisions_of_strangers_are_read_as_far_as_is_sensible(run):
    (run.path / "decisions.txt").write_bytes(b"\xff\x00 odd\n" + b"a long line\n" * 200_000)
    first, *others = run.decisions()
    assert first == "\N{REPLACEMENT CHARACTER}\x00 odd"
    assert sum(map(len, others)) <= 1_000_000


def test_a_missing_or_damaged_log_is_named(run):
    with pytest.raises(FileNotFoundError, match=r"run must have a log\.csv, got none in"):
        run.log()
    (run.path / "log.csv").write_text("step,loss\n10,high\n")
    with pytest.raises(RunFolderError, match=r"log\.csv must hold numbers, got another value in .*'high'"):
        run.log()


def test_the_summary_is_that_of_the_finished_run(run):
    (run.path / "summary.json").write_text(json.dumps({"steps": 7}))
    assert run.is_finished
    assert run.summary() == {"steps": 7}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"summary\.json must be JSON, got something else in .*summary\.json"),
        (b"\xff", r"summary\.json must be JSON, got something else"),
        (b"[1]", r"summary\.json must hold an object, got list in"),
    ],
)
def test_a_damaged_summary_is_named(run, content, message):
    (run.path / "summary.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=message):
        run.summary()


def test_clusters_are_the_last_ones_and_scores_go_by_their_list(run):
    for epoch, label in ((2, 0), (10, 1)):
        SpeakerClusters(labels=np.array([label]), centres=np.eye(2, dtype=np.float32), seed=0).save(
            run.path / "clusters" / f"epoch-{epoch:04d}.safetensors"
        )
    assert run.clusters().labels.tolist() == [1]
    (run.path / "scores").mkdir()
    for name in ("hard.txt", "easy.txt", "notes.md"):
        (run.path / "scores" / name).touch()
    assert run.scores() == {name: run.path / "scores" / f"{name}.txt" for name in ("easy", "hard")}


def test_differences_are_what_changes_the_result(run):
    assert run.differences(SETTINGS) == {}
    same = replace(SETTINGS, train=TrainingSettings(device="cuda", log_every_steps=1, checkpoint_every_steps=1))
    assert run.differences(same) == {}
    other = replace(SETTINGS, seed=3, batches=BatchSettings(kind="random"))
    assert run.differences(other) == {"batches.kind": ("clustered", "random"), "seed": (0, 3)}


@pytest.fixture
def project(tmp_path):
    """A folder with a manifest, room responses and a run that was begun with them, as of `chns train`."""
    home = tmp_path / "project"
    (home / "rooms").mkdir(parents=True)
    (home / "runs" / "one").mkdir(parents=True)
    (home / "train.parquet").write_bytes(b"rows")
    (home / "runs" / "one" / "config.yaml").write_text(config_text(settings_of(home), home / "runs" / "one"))
    return home


def settings_of(home):
    reverberation = ReverberationSettings(folder=f"{home}/rooms")
    return replace(
        SETTINGS,
        data=DataSettings(train=f"{home}/train.parquet"),
        augmentation=AugmentationSettings(reverberation=reverberation),
    )


def test_the_first_line_is_a_comment_and_paths_are_whole_wherever_they_were_given(project, monkeypatch):
    monkeypatch.chdir(project / "rooms")
    given = settings_of("..")
    text = config_text(given, project / "runs" / "one")
    assert text == (project / "runs" / "one" / "config.yaml").read_text()
    assert read_settings(RunFolder.open("../runs/one")) == settings_of(project)
    assert RunFolder.open("../runs/one").differences(given) == {}


def test_a_run_that_was_moved_with_its_data_finds_them(project, tmp_path):
    project.rename(tmp_path / "moved")
    moved = RunFolder.open(tmp_path / "moved" / "runs" / "one")
    assert read_settings(moved) == settings_of(tmp_path / "moved")
    assert moved.differences(settings_of(tmp_path / "moved")) == {}


def test_a_run_that_was_moved_alone_names_its_data_as_before(project, tmp_path):
    (project / "runs" / "one").rename(tmp_path / "one")
    moved = RunFolder.open(tmp_path / "one")
    assert read_settings(moved) == settings_of(project)
    assert moved.differences(settings_of(project)) == {}


def test_data_that_were_moved_are_the_same_if_their_manifest_is(project, tmp_path):
    run = RunFolder.open(project / "runs" / "one")
    away = tmp_path / "away"
    away.mkdir()
    for name in ("train.parquet", "rooms"):
        (project / name).rename(away / name)
    assert run.differences(settings_of(away)) == {}
    (away / "train.parquet").write_bytes(b"other rows")
    assert run.differences(settings_of(away)).keys() == {"data.train"}
    (project / "train.parquet").write_bytes(b"rows")
    (away / "train.parquet").write_bytes(b"rows")
    assert run.differences(settings_of(away)).keys() == {"data.train"}  # the old one is still there


@pytest.mark.parametrize("line", ["# {", "# 3", '# {"folder": 3}', "# a word", "# " + 60 * "["])
def test_a_first_line_of_somebody_else_says_nothing(project, line):
    config = project / "runs" / "one" / "config.yaml"
    config.write_text("\n".join([line, *config.read_text().splitlines()[1:]]))
    assert read_settings(RunFolder.open(project / "runs" / "one")) == settings_of(project)


@pytest.mark.parametrize("content", ["not JSON", "{}", "[1]", '{"pairs": "many"}', '{"pairs": -1}'])
def test_a_damaged_number_of_same_persons_is_named(tmp_path, content):
    (tmp_path / "config.yaml").write_text("{}")
    assert RunFolder.open(tmp_path).num_same_person() is None
    (tmp_path / "same_person.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"same_person\.json must hold a number of pairs, got"):
        RunFolder.open(tmp_path).num_same_person()
