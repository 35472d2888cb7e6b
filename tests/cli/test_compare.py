"""``chns compare``: what it prints, what a dry run tells, and what is wrong in one line."""

import json
import logging

import pytest
import yaml
from small_models import LEAST

from chns.cli import main
from chns.data.manifest import Manifest
from chns.evaluation.pairs import make_trials
from chns.evaluation.trials import write_trials


@pytest.fixture(scope="module")
def config(tmp_path_factory, hum_manifest, configs):
    """YAML of a comparison that takes seconds: two strategies, one seed, eight steps."""
    folder = tmp_path_factory.mktemp("compare")
    training, test = Manifest.read(hum_manifest).split_speakers(6, seed=0)
    training.write(folder / "train.parquet")
    test.write(folder / "test.parquet")
    write_trials(folder / "trials.txt", make_trials(test, targets_per_speaker=4, num_nontargets=40, seed=1))
    base = yaml.safe_load((configs / "tiny.yaml").read_text())
    base["encoder"] = yaml.safe_load(LEAST.read_text())["encoder"]
    base["data"] |= {"train": str(folder / "train.parquet"), "held_out_speakers": 0, "crop_seconds": 0.5}
    base["batches"] = {"speakers_per_batch": 4, "utterances_per_speaker": 2, "steps_per_epoch": 4}
    base["clusters"] |= {"num_clusters": 3, "crop_seconds": 0.5}
    base["train"] |= {"epochs": 2, "device": "cpu"}
    content = {
        "base": base,
        "strategies": {"supcon": {}, "chns": {"batches": {"kind": "clustered"}}},
        "seeds": [0],
        "trial_lists": {"hums": {"manifest": str(folder / "test.parquet"), "trials": str(folder / "trials.txt")}},
    }
    (folder / "compare.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "compare.yaml"


@pytest.fixture(scope="module")
def out(config):
    """Folder of the finished comparison."""
    assert main(["compare", str(config), "--out", str(config.parent / "out")]) == 0
    return config.parent / "out"


def test_the_table_and_the_verdict_are_printed_and_written(config, out, capsys):
    assert main(["compare", str(config), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (out / "comparison.md").read_text() in printed
    assert "| chns " in printed
    assert "Hard sampling (chns against supcon)" in printed
    assert f"written: {out}/comparison.md, {out}/comparison.json" in printed


def test_json_is_the_file(config, out, capsys):
    assert main(["compare", str(config), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "comparison.json").read_text())


@pytest.mark.slow
def test_another_baseline_takes_the_place_of_the_configurations(config, out, capsys):
    words = ["compare", str(config), "--out", str(out), "--json"]
    assert main([*words, "--baseline", "chns"]) == 0
    against_chns = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    against_supcon = json.loads(capsys.readouterr().out)
    assert (against_chns["baseline"], against_supcon["baseline"]) == ("chns", "supcon")
    assert main([*words, "--baseline", "no"]) == 2
    assert "baseline must be one of the strategies supcon, chns, got 'no'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_says_what_is_there_and_changes_nothing(config, out, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO, logger="chns")
    words = ["compare", str(config), "--dry-run", "--out"]
    assert main([*words, str(tmp_path / "new")]) == 0
    assert not (tmp_path / "new").exists()
    assert caplog.text.count("supcon: measuring this machine: a first step, then ten") == 1  # one encoder
    first, second, last, *estimated = capsys.readouterr().out.splitlines()
    assert first.split() == [f"{tmp_path}/new/supcon/seed-0", "to", "be", "trained"]
    assert last == "2 runs of 8 steps of 8 segments; 0 finished, 2 to train"
    found = "\n".join(estimated)
    for words_of_it in ("Hours of a run of 8 steps", "all 2 runs", "cores to decode", "- supcon: ", "hours a run"):
        assert words_of_it in found

    scores, summary = out / "supcon" / "seed-0" / "scores" / "hums.txt", out / "chns" / "seed-0" / "summary.json"
    kept = scores.read_bytes(), summary.read_bytes()
    scores.unlink()
    summary.unlink()
    assert main([*words, str(out)]) == 0
    first, second, last, *estimated = capsys.readouterr().out.splitlines()
    assert any(line.startswith("the run ") for line in estimated)
    assert first.endswith("supcon/seed-0  trained, to be scored on hums")
    assert second.endswith("goes on after about 8 of 8 steps")
    assert last.endswith("1 finished, 1 to train")
    assert main([*words, str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    states, estimate = shown["runs"], shown["estimate"]
    assert list(estimate["strategies"]) == ["chns"]
    assert estimate["strategies"]["chns"]["least_hours"]["H100 80 GB"] > 0
    assert 0 <= estimate["measured"]["chns"]["wait_share"] < 1
    assert [(state["finished"], state["to_score"]) for state in states] == [(True, ["hums"]), (False, ["hums"])]
    scores.write_bytes(kept[0])
    summary.write_bytes(kept[1])
    assert main([*words, str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("trained and scored") == 2
    assert "Hours" not in shown  # nothing is left to estimate


@pytest.mark.slow
def test_options_of_a_training_go_before_the_configurations_base(config, tmp_path, capsys):
    words = ["compare", str(config), "--out", str(tmp_path), "--dry-run"]
    assert main([*words, "--train.epochs", "3", "--batches.steps-per-epoch=5"]) == 0
    assert "2 runs of 15 steps of 8 segments" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--train.epoch", "3"])
    printed = capsys.readouterr().err
    assert "--train.epoch" in printed
    assert "Did you mean --train.epochs?" in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bogus: 1", "'bogus' is not accepted"),
        ("base: {batches: {speakers: 3}}", "batches.speakers"),
        ("trial_lists: {a: {manifest: m.parquet, trials: t.txt}}", "data.train must name a manifest, got none"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_made(tmp_path, capsys, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    assert main(["compare", str(tmp_path / "wrong.yaml"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("chns: error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_help_has_examples_and_names_every_key(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for word in ("base", "strategies", "seeds", "trial_lists", "baseline", "--dry-run", "--jobs", "comparison.md"):
        assert word in shown
