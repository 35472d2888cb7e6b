"""Findings of real runs, trained here for a few steps."""

import json
import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from small_models import LEAST

from chns.cli.training_commands import train_parser
from chns.core import ManifestError, RunFolderError
from chns.data.manifest import Manifest
from chns.data.storage.remote import RemoteRoot
from chns.evaluation.scoring import write_scores
from chns.evaluation.trials import Trials
from chns.report import collect
from chns.report.collect import collect_findings
from chns.report.run_findings import require_near
from chns.sampling import SpeakerClusters
from chns.training.build import read_data
from chns.training.run import train
from chns.training.settings import DataSettings, TrainSettings


@pytest.fixture(scope="module", autouse=True)
def _in_the_folder_of_the_manifest(hum_manifest):
    """What a run names elsewhere is not read; only its folder and the current one are looked into."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(hum_manifest.parent)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory, configs, hum_manifest):
    """A run with random batches, one with clustered ones and one with neighbours, with a score file each."""
    folder = tmp_path_factory.mktemp("runs")
    parser = train_parser()
    for strategy in ("supcon", "chns", "neighbours"):
        files = (configs / f"{strategy}.yaml", configs / "tiny.yaml", LEAST)
        words = [word for file in files for word in ("--config", str(file))]
        arguments = parser.instantiate(parser.parse_args([*words, "--data.train", str(hum_manifest)]))
        settings = TrainSettings(**{name: arguments[name] for name in TrainSettings.__dataclass_fields__})
        settings = replace(settings, train=replace(settings.train, epochs=2, device="cpu"))
        train(settings, folder / strategy / "seed-0")
        trials = Trials(list("abcde"), list("fghij"), np.array([True, False, True, False, False]))
        scores = np.array([0.9, 0.5, 0.3, 0.1, 0.0])
        write_scores(folder / strategy / "seed-0" / "scores" / "hard.txt", trials, scores)
    return folder


@pytest.fixture(scope="module")
def findings(runs):
    return collect_findings([runs / "supcon" / "seed-0", runs / "chns" / "seed-0"])


@pytest.fixture(scope="module")
def neighbours(runs):
    return collect_findings([runs / "neighbours" / "seed-0"])[0]


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the clustered run, to be spoilt."""
    return shutil.copytree(runs / "chns" / "seed-0", tmp_path / "run")


def without_manifest(run):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("manifest.parquet", "gone.parquet"))


def test_runs_are_named_by_what_tells_them_apart(findings, runs):
    assert [found.name for found in findings] == ["supcon/seed-0", "chns/seed-0"]
    assert [found.path for found in findings] == [runs / "supcon" / "seed-0", runs / "chns" / "seed-0"]
    assert [found.strategy for found in findings] == [
        "SupCon, random batches",
        "SupCon, clustered batches, hard ratio 1.0",
    ]


def test_log_and_scores_are_those_of_the_run(findings):
    for found in findings:
        assert sorted(set(found.log["step"])) == [2, 4, 6, 8, 10, 12]
        assert np.count_nonzero(np.isfinite(found.log["loss"])) == 6
        assert found.scored["hard"].metrics.target_trials == 2


def test_the_map_shows_the_training_speakers_and_their_clusters(findings, runs, hum_manifest):
    random, clustered = findings
    trained = read_data(TrainSettings(data=DataSettings(train=str(hum_manifest))))[0]
    for found in findings:
        assert found.speaker_map.speakers == trained.speakers
        assert found.speaker_map.points.shape == (18, 2)
        assert found.num_training_speakers == 18
    assert random.speaker_map.clusters is None
    assert random.cluster_shapes is None
    (path,) = (runs / "chns" / "seed-0" / "clusters").iterdir()
    own = SpeakerClusters.load(path)
    assert clustered.speaker_map.clusters.tolist() == own.labels.tolist()
    assert clustered.cluster_shapes.sizes.tolist() == own.sizes.tolist()
    assert ((clustered.cluster_shapes.tightness > 0) | (own.sizes == 0)).all()


def test_both_kinds_of_batches_are_measured_for_every_run(findings):
    for found in findings:
        assert found.batch_hardness.kind == "clustered"
        assert len(found.batch_hardness.random) == len(found.batch_hardness.hard) > 1_000
        assert found.batch_hardness.hard.mean() > found.batch_hardness.random.mean()


def test_a_run_of_neighbours_has_no_clusters_but_hard_batches_and_decisions(neighbours):
    assert (neighbours.batches, neighbours.strategy) == ("neighbours", "SupCon, batches of neighbours, hard ratio 1.0")
    assert neighbours.cluster_shapes is None
    assert neighbours.speaker_map.clusters is None
    assert neighbours.batch_hardness.kind == "neighbours"
    assert len(neighbours.batch_hardness.random) == len(neighbours.batch_hardness.hard) > 1_000
    assert neighbours.batch_hardness.hard_closest > neighbours.batch_hardness.hard.mean()
    assert neighbours.has_hard_phase
    assert neighbours.decisions == ["epoch 1: the hard phase begins: grouping 18 speakers by their centroids"]
    assert len(neighbours.log["easy_anchor_share"]) > 0


def test_only_a_run_that_came_to_hard_batches_has_a_hard_phase(findings):
    assert [found.has_hard_phase for found in findings] == [False, True]


@pytest.mark.parametrize(
    ("kind", "logged", "ratio"),
    [
        ("auto", [0.0, 0.5, np.nan, 0.0], 0.5),
        ("auto", [0.0, 0.0], 1.0),
        ("neighbours", [0.0], 0.25),
        ("random", [], 0.25),
    ],
)
def test_batches_are_as_hard_as_they_came_to_be_while_training(run, kind, logged, ratio, monkeypatch):
    asked = []
    monkeypatch.setattr(collect, "batch_hardness", lambda *_, hard_phase, **__: asked.append(hard_phase.hard_ratio))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["batches"]["kind"], config["clusters"]["hard_ratio"] = kind, 0.25
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [f"{step},0,{'' if np.isnan(value) else value}" for step, value in enumerate(logged)]
    (run / "log.csv").write_text("\n".join(["step,epoch,hard_ratio", *lines]))
    collect_findings([run])
    assert asked == [ratio]


def test_suspected_duplicates_are_training_speakers(findings):
    for found in findings:
        assert {name for pair in found.duplicates for name in pair.speakers} <= set(found.speaker_map.speakers)


def test_a_second_report_finds_the_same_without_the_audio(findings, runs, hum_manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("chns.evaluation.embedder.Embedder.crops", None)  # a call would fail
    again = collect_findings([runs / "supcon" / "seed-0"], names=["A"])[0]
    assert again.name == "A"
    assert np.array_equal(again.speaker_map.points, findings[0].speaker_map.points)
    assert np.array_equal(again.batch_hardness.hard, findings[0].batch_hardness.hard)


def test_without_training_data_the_rest_is_reported(run, caplog):
    without_manifest(run)
    with caplog.at_level(logging.WARNING):
        (found,) = collect_findings([run])
    assert "run: reported without training speakers: manifest must be a file" in caplog.text
    assert found.scored.keys() == {"hard"}
    assert sorted(set(found.log["step"])) == [2, 4, 6, 8, 10, 12]
    parts = (found.speaker_map, found.cluster_shapes, found.batch_hardness, found.duplicates)
    assert (*parts, found.num_training_speakers) == (None,) * 5


def test_a_manifest_that_was_moved_can_be_named(run, hum_manifest, findings):
    without_manifest(run)
    (found,) = collect_findings([run], manifest=hum_manifest)
    assert np.array_equal(found.speaker_map.points, findings[1].speaker_map.points)


@pytest.fixture
def asked_for(tmp_path, monkeypatch):
    """What a report embeds of a stranger's run, whose settings name data; what it reads of manifests is kept."""
    monkeypatch.chdir(tmp_path)
    run, read, plain = tmp_path / "run", [], Manifest.read
    run.mkdir()
    monkeypatch.setattr(Manifest, "read", lambda path, **named: read.append(str(path)) or plain(path, **named))
    monkeypatch.setattr(collect, "embed_training_speakers", lambda _, manifest, **__: manifest)
    monkeypatch.setattr(collect, "Embedder", SimpleNamespace)

    def embedded(train, **named):
        settings = TrainSettings(data=DataSettings(train=str(train), held_out_speakers=0))
        named = {"manifest": None, "root": None, **named}
        bundle = SimpleNamespace(model=None)
        return collect._training_speakers(
            SimpleNamespace(path=run), bundle, settings, **named, device="cpu", num_workers=0
        )

    return run, embedded, read


def test_a_manifest_that_a_run_names_elsewhere_is_not_read_unless_it_is_named(hum_manifest, asked_for):
    run, embedded, read = asked_for
    (run / "linked.parquet").symlink_to(hum_manifest)
    for path in (hum_manifest, "../../x/m.parquet", run / "linked.parquet", "https://example.org/m.parquet"):
        with pytest.raises(
            ManifestError, match=r"below its folder or the current one .* the manifest with --manifest\."
        ):
            embedded(path)
    assert read == []
    assert len(embedded(run / "linked.parquet", manifest=hum_manifest)) == 100


def test_recordings_that_the_manifest_of_a_run_names_elsewhere_are_not_read(hum_manifest, asked_for):
    run, embedded, _ = asked_for
    Manifest.read(hum_manifest).write(run / "m.parquet")  # which says where its recordings are
    with pytest.raises(ManifestError, match=f"got {str(hum_manifest.parent)!r}"):
        embedded(run / "m.parquet")
    assert len(embedded(run / "m.parquet", root=str(hum_manifest.parent))) == 100


def test_a_url_is_never_near_and_the_folder_of_a_comparison_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "elsewhere" / "comparison" / "supcon" / "seed-0"
    run.mkdir(parents=True)
    monkeypatch.chdir(run)
    for place in (RemoteRoot("https://example.org/shards"), run.parents[1] / "train.parquet"):
        with pytest.raises(ManifestError, match=r"name the manifest with --other"):
            require_near(place, run, option="--other")
    (run.parents[1] / "comparison.json").touch()
    require_near(run.parents[1] / "train.parquet", run, option="--other")


def test_a_manifest_that_is_named_must_fit(run, hum_manifest, tmp_path):
    Manifest.read(hum_manifest).split_speakers(9, seed=0)[0].write(tmp_path / "fewer.parquet")
    with pytest.raises(ManifestError, match="training manifest must hold the 18 speakers"):
        collect_findings([run], manifest=tmp_path / "fewer.parquet")
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        collect_findings([run], manifest=tmp_path / "gone.parquet")


def test_clusters_of_other_speakers_are_refused(run):
    (path,) = (run / "clusters").iterdir()
    clusters = SpeakerClusters.load(path)
    replace(clusters, labels=clusters.labels[:5]).save(path)
    with pytest.raises(RunFolderError, match="clusters must group the 18 training speakers, got 5 in"):
        collect_findings([run])


def test_the_model_may_not_run_code_that_is_not_trusted(run):
    description = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps({**description, "encoder": "strange.Encoder"}))
    with pytest.raises(ValueError, match=r"encoder must come from a trusted package, got 'strange\.Encoder'"):
        collect_findings([run])


def test_runs_must_be_given_and_differ(run):
    with pytest.raises(ValueError, match="run_folders must be at least one, got none"):
        collect_findings([])
    with pytest.raises(ValueError, match="run_folders must be different, got"):
        collect_findings([run, run])
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match=r"names must be one for each of 2 runs and different, got a"):
            collect_findings([run, run], names=names)
    with pytest.raises(FileNotFoundError, match=r"run must be the folder of a training, with config\.yaml, got"):
        collect_findings([run.parent])
