"""Settings read back from a run's folder, and the name of its strategy."""

from dataclasses import asdict, replace

import pytest
import yaml

from chns.core import RunFolderError
from chns.training.folder import RunFolder, read_settings, strategy_name
from chns.training.settings import BatchSettings, ClusterSettings, ObjectSettings, TrainSettings


def run_with(folder, settings):
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return RunFolder.open(folder)


def test_settings_read_back_are_those_written(tmp_path):
    settings = TrainSettings(
        encoder=ObjectSettings(factory="own.Encoder", settings={"width": 3}),
        clusters=ClusterSettings(pooling="nearest"),
        seed=7,
    )
    assert read_settings(run_with(tmp_path, asdict(settings))) == settings


def test_a_setting_that_the_run_did_not_know_has_its_default(tmp_path):
    assert read_settings(run_with(tmp_path, {"seed": 3})) == TrainSettings(seed=3)


@pytest.mark.parametrize("wrong", [{"bogus": 1}, {"seed": "x"}, {"data": 3}, {"batches": {"kind": "odd"}}])
def test_a_setting_that_is_none_is_refused_with_its_file(tmp_path, wrong):
    with pytest.raises(RunFolderError, match=r"config\.yaml must hold the settings of a training, .*config\.yaml \("):
        read_settings(run_with(tmp_path, wrong))


@pytest.mark.parametrize(
    ("kind", "clusters", "name"),
    [
        ("neighbours", {}, "SupCon, batches of neighbours, hard ratio 1.0"),
        (
            "neighbours",
            {"hard_ratio": 0.5, "group_size": 4, "first_neighbour": 1, "last_neighbour": 9, "refresh_every": 2},
            "SupCon, batches of neighbours, hard ratio 0.5, groups of 4 from the nearest 2 to 9, "
            "neighbours anew every 2 epochs",
        ),
        ("auto", {"hard_ratio": 0.5, "start": "easy"}, "SupCon, auto batches"),
        ("auto", {"model": "packaged"}, "SupCon, auto batches, groups of another model"),
        ("clustered", {"model": "packaged"}, "SupCon, clustered batches, hard ratio 1.0, groups of another model"),
        ("auto", {"last_neighbour": 12}, "SupCon, auto batches, groups of 8 from the nearest 1 to 12"),
        (
            "clustered",
            {"pooling": "even", "num_clusters": None, "start": "easy"},
            "SupCon, clustered batches, hard ratio 1.0, even pooling, from when batches are easy",
        ),
        (
            "clustered",
            {"refresh_every": 2, "separate_same_person": True},
            "SupCon, clustered batches, hard ratio 1.0, clustered anew every 2 epochs, suspected doubles kept apart",
        ),
    ],
)
def test_the_strategy_says_which_kind_and_what_is_unusual(kind, clusters, name):
    assert strategy_name(TrainSettings(batches=BatchSettings(kind=kind), clusters=ClusterSettings(**clusters))) == name


def test_a_scheduled_beta_is_part_of_the_strategy():
    loss = ObjectSettings(factory="chns.losses.HSCLLoss", settings={"beta_start": 0.0, "beta": 0.5})
    assert strategy_name(TrainSettings(loss=loss)) == "H-SCL with beta from 0.0, random batches"


@pytest.mark.parametrize(
    ("loss", "clusters", "name"),
    [
        ("chns.losses.SupConLoss", None, "SupCon, random batches"),
        ("chns.losses.AAMSoftmaxLoss", None, "AAM-softmax, random batches"),
        ("chns.losses.HSCLLoss", {}, "H-SCL, clustered batches, hard ratio 1.0"),
        ("own.package.MyLoss", {"hard_ratio": 0.5}, "MyLoss, clustered batches, hard ratio 0.5"),
        (
            "chns.losses.SupConLoss",
            {"pooling": "nearest", "refresh_every": 5},
            "SupCon, clustered batches, hard ratio 1.0, nearest pooling, clustered anew every 5 epochs",
        ),
    ],
)
def test_the_strategy_is_named_by_loss_and_batches(loss, clusters, name):
    settings = TrainSettings(loss=ObjectSettings(factory=loss))
    if clusters is not None:
        settings = replace(settings, batches=BatchSettings(kind="clustered"), clusters=ClusterSettings(**clusters))
    assert strategy_name(settings) == name
