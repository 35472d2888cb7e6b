"""``chns evaluate`` with a cohort and with enrolment from several utterances, as a user runs it."""

import json

import numpy as np
import pytest
from small_models import saved_model

from chns.bundle.bundle import load_model
from chns.cli import main
from chns.data.manifest import Manifest
from chns.evaluation.embedder import Embedder

TRIALS = [(a, b) for a in ("s00/0", "s01/1", "s02/2") for b in ("s00/3", "s01/4", "s02/0")]
MAP = "s00-model s00/0 s00/1 s00/2\ns01-model s01/1\ns02-model s02/1 s02/2\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def cohort(hum_manifest, tmp_path_factory):
    """Every speaker but the first five; the last with one utterance only."""
    manifest = Manifest.read(hum_manifest)
    path = tmp_path_factory.mktemp("cohort") / "cohort.parquet"
    manifest.take(np.flatnonzero(manifest.speaker_labels >= 5)[:-4]).write(path)
    return path


@pytest.fixture(scope="module")
def embedded(model, hum_manifest):
    """Embedding of each utterance by name."""
    manifest = Manifest.read(hum_manifest)
    vectors = Embedder(model=load_model(model)).utterances(manifest).astype(np.float64)
    return dict(zip(manifest.column("utterance"), vectors, strict=True))


@pytest.fixture
def run(model, hum_manifest, tmp_path, capsys):
    """Runs the command; gives what it prints and the scores that it writes."""

    def run(*words, trials=TRIALS, json_output=True):
        lines = [f"{a} {b} {'target' if a[:3] == b[:3] else 'nontarget'}" for a, b in trials]
        (tmp_path / "trials.txt").write_text("\n".join(lines))
        fixed = ("--trials", tmp_path / "trials.txt", "--scores", tmp_path / "s.txt", "--workers", 0, "--device", "cpu")
        everything = ["evaluate", model, hum_manifest, *fixed, *words, *(["--json"] if json_output else [])]
        assert main([str(word) for word in everything]) == 0
        printed = capsys.readouterr().out
        scores = np.array([float(line.split()[2]) for line in (tmp_path / "s.txt").read_text().splitlines()])
        return (json.loads(printed) if json_output else printed), scores

    return run


@pytest.fixture
def error_of(model, hum_manifest, tmp_path, capsys):
    """Runs the command, which must fail and write nothing; gives the message."""

    def error_of(*words):
        (tmp_path / "trials.txt").write_text("s00/0 s01/0 nontarget\n")
        fixed = ("--trials", tmp_path / "trials.txt", "--scores", tmp_path / "s.txt", "--workers", 0)
        assert main([str(word) for word in ("evaluate", model, hum_manifest, *fixed, *words)]) == 2
        assert not (tmp_path / "s.txt").exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    return error_of


def unit(vectors):
    return np.array(vectors) / np.linalg.norm(vectors, axis=-1, keepdims=True)


def expected_scores(pairs, cohort, kind, top_k=None):
    """Normalised cosines of pairs of vectors, one by one."""
    results = []
    for pair in pairs:
        sides = []
        for side, letter in zip(pair, "zt", strict=True):
            against = np.sort(unit(cohort) @ unit(side))[::-1][:top_k]
            if kind in (letter, "s", "as"):
                sides.append((unit(pair[0]) @ unit(pair[1]) - against.mean()) / against.std())
        results.append(np.mean(sides))
    return np.array(results)


def voices_of(cohort, embedded, *, of="speakers", mean=0.0):
    manifest = Manifest.read(cohort)
    vectors = unit([embedded[name] - mean for name in manifest.column("utterance")])
    if of == "utterances":
        return vectors
    return np.stack([vectors[manifest.speaker_labels == label].mean(axis=0) for label in range(15)])


@pytest.mark.slow
def test_without_the_new_options_nothing_is_added(run, embedded):
    summary, scores = run()
    assert list(summary) == [
        *("model", "manifest", "trials", "scores"),
        *("eer", "min_dcf", "target_trials", "nontarget_trials"),
    ]
    assert scores == pytest.approx([unit(embedded[a]) @ unit(embedded[b]) for a, b in TRIALS], abs=1e-5)
    printed, again = run(json_output=False)
    assert (again == scores).all()
    assert [line.partition(":")[0].split()[0] for line in printed.splitlines()[1:]] == ["3", "EER", "minDCF", "minDCF"]


def test_what_trials_contradict_is_said_and_scored_all_the_same(model, hum_manifest, tmp_path, capsys):
    trials = tmp_path / "trials.txt"
    lines = ["s00/0 s00/1 target", "s00/0 s01/0 nontarget", "s01/0 s00/0 target", "s00/0 s00/1 target"]
    trials.write_text("\n".join(lines))
    fixed = ("--trials", trials, "--scores", tmp_path / "s.txt", "--workers", 0, "--device", "cpu")
    assert main([str(word) for word in ("evaluate", model, hum_manifest, *fixed)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert said == [
        f"warning: 1 trials are labelled otherwise than the manifest's speakers, the first in {trials}:3: "
        "'s01/0 s00/0'",
        f"warning: 1 trials name their pair as target and as non-target, the first in {trials}:3: 's01/0 s00/0'",
        f"warning: 1 trials were there before, the first in {trials}:4: 's00/0 s00/1'",
    ]
    assert len((tmp_path / "s.txt").read_text().splitlines()) == 4


@pytest.mark.parametrize("of", ["speakers", "utterances"])
@pytest.mark.parametrize(("kind", "top_k"), [("z", None), ("t", None), ("s", None), ("as", 4)])
def test_scores_are_normalised_by_the_cohort_as_stated(run, embedded, cohort, kind, top_k, of):
    words = (f"--{kind}-norm", cohort, "--cohort-of", of, *(("--top-k", top_k) if top_k else ()))
    summary, scores = run(*words)
    assert summary["normalisation"] == {
        "kind": kind,
        "cohort_of": of,
        "cohort_size": 15 if of == "speakers" else 71,
        "top_k": top_k,
        "mean_subtracted": False,
        "cohort": str(cohort),
    }
    pairs = [(embedded[a], embedded[b]) for a, b in TRIALS]
    expected = expected_scores(pairs, voices_of(cohort, embedded, of=of), kind, top_k)
    assert scores == pytest.approx(expected, rel=1e-2, abs=1e-2)


def test_the_mean_of_the_cohort_is_subtracted_from_everything(run, embedded, cohort):
    printed, scores = run("--as-norm", cohort, "--top-k", 5, "--subtract-mean", json_output=False)
    assert f"normalisation: AS-norm, top 5 of 15 cohort speakers, mean subtracted ({cohort})" in printed.splitlines()
    mean = np.mean([embedded[name] for name in Manifest.read(cohort).column("utterance")], axis=0)
    pairs = [(embedded[a] - mean, embedded[b] - mean) for a, b in TRIALS]
    expected = expected_scores(pairs, voices_of(cohort, embedded, mean=mean), "as", 5)
    assert scores == pytest.approx(expected, rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("averaged", [None, "average-embeddings", "average-scores"])
@pytest.mark.parametrize("normalised", [False, True])
def test_trials_may_name_models_of_several_utterances(run, embedded, cohort, tmp_path, averaged, normalised):
    (tmp_path / "enroll.map").write_text(MAP)
    trials = [(name, test) for name in ("s02-model", "s00-model", "s01-model") for test in ("s00/3", "s01/4", "s02/0")]
    words = ["--enrolment-map", tmp_path / "enroll.map", *(["--enrolment", averaged] if averaged else [])]
    summary, scores = run(*words, *(["--s-norm", cohort] if normalised else []), trials=trials)
    assert summary["enrolment"] == {
        "map": str(tmp_path / "enroll.map"),
        "by": averaged or "average-embeddings",
        "models": 3,
        "utterances": 6,
    }
    voices = voices_of(cohort, embedded)
    utterances = {name: rest for name, *rest in map(str.split, MAP.splitlines())}
    expected = []
    for name, test in trials:
        sides = [embedded[utterance] for utterance in utterances[name]]
        if averaged != "average-scores":
            sides = [np.mean(unit(sides), axis=0)]
        pairs = [(side, embedded[test]) for side in sides]
        plain = [unit(a) @ unit(b) for a, b in pairs]
        expected.append(np.mean(expected_scores(pairs, voices, "s") if normalised else plain))
    assert scores == pytest.approx(expected, rel=1e-2, abs=1e-2 if normalised else 1e-5)


def test_enrolment_and_normalisation_are_told_in_words(run, cohort, tmp_path):
    (tmp_path / "enroll.map").write_text(MAP)
    words = ("--enrolment-map", tmp_path / "enroll.map", "--enrolment", "average-scores", "--z-norm", cohort)
    printed, _ = run(*words, trials=[("s00-model", "s00/3"), ("s01-model", "s00/3")], json_output=False)
    assert printed.splitlines()[1:3] == [
        f"enrolment: average scores, 2 models of 4 utterances ({tmp_path / 'enroll.map'})",
        f"normalisation: Z-norm, 15 cohort speakers ({cohort})",
    ]


def test_options_that_would_do_nothing_are_refused(error_of, cohort):
    assert "--enrolment must come with --enrolment-map" in error_of("--enrolment", "average-scores")
    for words in (("--top-k", 5), ("--cohort-of", "speakers"), ("--subtract-mean",)):
        expected = f"{words[0]} must come with one of --z-norm, --t-norm, --s-norm, --as-norm, got it alone"
        assert expected in error_of(*words)
    assert "--top-k must come with --as-norm, got --s-norm" in error_of("--s-norm", cohort, "--top-k", 5)


def test_what_is_wrong_with_cohort_or_map_is_said_in_one_line(error_of, hum_manifest, cohort, tmp_path):
    assert "cohort must have no speaker of the trials, got 2 of 2 in both: 's00', 's01'." in error_of(
        "--s-norm", hum_manifest
    )
    assert "top_k must be between 2 and the size of the cohort, 15, got 300" in error_of("--as-norm", cohort)
    assert "manifest must be a file, got none.parquet" in error_of("--z-norm", "none.parquet")
    (tmp_path / "enroll.map").write_text("other s00/1\n")
    assert f"got 's00/0' in {tmp_path / 'trials.txt'}:1" in error_of("--enrolment-map", tmp_path / "enroll.map")


@pytest.mark.slow
def test_a_sweep_adds_conditions_and_leaves_the_scores_as_they_are(run, tmp_path):
    _, plain = run()
    printed, scores = run("--sweep", "duration=0.5", "snr=0", "codec=telephone")
    assert np.array_equal(scores, plain)
    assert json.loads((tmp_path / "s.sweep.json").read_text())["sweep"] == printed["sweep"]
    recorded, *changed = printed["sweep"]["conditions"]
    assert recorded["rates"]["eer"]["estimate"] == pytest.approx(printed["eer"])
    assert [one["name"] for one in changed] == ["duration 0.5 s", "snr 0 dB", "codec telephone"]
    assert printed["sweep"]["noise"].startswith("generated")
    out, _ = run("--sweep", "snr=0", json_output=False)
    assert f"{tmp_path / 's.sweep.json'}: the same for programs" in out
    assert "\nsnr 0 dB " in out


def test_a_sweep_needs_labels_and_its_noise_needs_a_sweep(model, hum_manifest, tmp_path, error_of, capsys):
    assert "--noise must come with --sweep" in error_of("--noise", tmp_path)
    assert "codec must be one of" in error_of("--sweep", "codec=amr")
    (tmp_path / "pairs.txt").write_text("s00/0 s01/0\n")
    words = ["evaluate", model, hum_manifest, "--trials", tmp_path / "pairs.txt", "--out", tmp_path / "o.txt"]
    assert main([str(word) for word in (*words, "--sweep", "snr=0")]) == 2
    assert "--sweep must have trials with labels" in capsys.readouterr().err


def test_identification_by_size_of_the_gallery(model, hum_manifest, tmp_path, capsys):
    words = ["evaluate", model, hum_manifest, "--gallery", "2,5", "--out", tmp_path / "g.json", "--workers", 0]
    assert main([str(word) for word in (*words, "--device", "cpu")]) == 2
    assert "strangers must make at least 100 searches for a FPIR of 0.01, got 75" in capsys.readouterr().err


def test_options_of_trials_do_not_go_with_a_gallery(model, hum_manifest, tmp_path, capsys):
    words = ["evaluate", model, hum_manifest, "--gallery", "2", "--out", tmp_path / "g.json", "--sweep", "snr=1"]
    assert main([str(word) for word in words]) == 2
    assert "--sweep must come with --trials" in capsys.readouterr().err


@pytest.mark.slow
def test_a_large_manifest_gives_rates_as_json_and_as_a_table(model, hum_manifest, tmp_path, monkeypatch, capsys, rng):
    manifest = Manifest.read(hum_manifest)
    rows = [
        {**row, "utterance": f"{copy}/{row['utterance']}", "speaker": f"{copy}/{row['speaker']}"}
        for copy in range(2)
        for row in manifest.table.to_pylist()
    ]
    Manifest.from_rows(rows, root=manifest.root).write(tmp_path / "m.parquet")
    monkeypatch.setattr(Embedder, "utterances", lambda *_: rng.normal(size=(200, 8)).astype(np.float32))
    words = ["evaluate", model, tmp_path / "m.parquet", "--gallery", "2,5", "--out", tmp_path / "g.json"]
    assert main([str(word) for word in (*words, "--device", "cpu", "--json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "g.json").read_text())
    assert [one["size"] for one in printed["identification"]["galleries"]] == [2, 5]
    assert main([str(word) for word in (*words, "--device", "cpu")]) == 0
    assert "open-set identification at FPIR 0.01" in capsys.readouterr().out


@pytest.mark.parametrize("sizes", ["ten", "1,", "1_0"])
def test_sizes_of_galleries_are_whole_numbers(model, hum_manifest, sizes, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(model), str(hum_manifest), "--gallery", sizes, "--out", "g.json"])
    assert "must be whole numbers between commas" in capsys.readouterr().err
