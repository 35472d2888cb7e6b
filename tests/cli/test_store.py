"""Enrol, identify, list, show, delete and export from the command line."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_models import saved_model

from chns.bundle.bundle import load_bundle
from chns.cli import main
from chns.store.voiceprints import VoiceprintStore

KEY = "a key of the kind that nobody guesses"


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv("CHNS_STORE_KEY", raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("model") / "model", seed=0)


@pytest.fixture(scope="module")
def recordings(hum_manifest):
    return hum_manifest.parent


@pytest.fixture(scope="module")
def enrolled(model, recordings, tmp_path_factory):
    path = tmp_path_factory.mktemp("enrolled") / "people.store"
    for speaker in ("s00", "s01", "s02"):
        files = [recordings / speaker / f"{number}.flac" for number in range(2)]
        assert run("enrol", model, path, speaker, *files, "--note", f"consent of {speaker}") == 0
    return path


@pytest.fixture
def store(enrolled, tmp_path):
    return shutil.copy(enrolled, tmp_path / "people.store")


def run(*words):
    return main([str(word) for word in words])


def run_json(capsys, *words, code=0):
    capsys.readouterr()
    assert run(*words, "--json") == code
    return json.loads(capsys.readouterr().out)


def error_of(capsys, *words):
    capsys.readouterr()
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.strip().splitlines()[-1]


def test_enrol_makes_a_store_and_says_what_is_in_it(model, recordings, tmp_path, capsys):
    files = [recordings / "s00" / f"{number}.flac" for number in range(3)]
    summary = run_json(capsys, "enrol", model, tmp_path / "p.store", "anna", *files[:2], "--note", "yes")
    warnings = summary.pop("warnings")
    assert summary == {
        "store": str(tmp_path / "p.store"),
        "name": "anna",
        "added_utterances": 2,
        "utterances": 2,
        "people": 1,
        "encrypted": False,
    }
    assert set(warnings) <= {str(file) for file in files}
    assert run("enrol", model, tmp_path / "p.store", "anna", files[2], "--add") == 0
    assert "anna: 1 recording enrolled, 3 in all" in capsys.readouterr().out
    shown = run_json(capsys, "store", "show", tmp_path / "p.store", "anna")
    assert (shown["note"], shown["num_utterances"]) == ("yes", 3)
    assert shown["sources"] == [str(file) for file in files]
    assert shown["model_digest"] == load_bundle(model).digest
    np.testing.assert_allclose(np.linalg.norm(shown["vector"]), 1, atol=1e-5)


@pytest.mark.slow
def test_identify_finds_who_is_enrolled_and_its_exit_code_says_so(model, store, recordings, capsys):
    words = ("identify", model, store, recordings / "s01" / "0.flac")
    answer = run_json(capsys, *words, "--threshold", "-1", "--top", "2")
    assert answer["identified"] == answer["matches"][0]["name"]
    assert len(answer["matches"]) == 2
    best = answer["matches"][0]["score"]
    assert run_json(capsys, *words, "--threshold", best - 1e-6)["identified"] == answer["identified"]
    nobody = run_json(capsys, *words, "--threshold", best + 1e-6, code=1)
    assert (nobody["identified"], nobody["matches"][0]["score"]) == (None, best)
    assert run(*words, "--threshold", best - 1e-6) == 0
    assert f"{answer['identified']} (threshold" in capsys.readouterr().out
    assert run(*words, "--threshold", best + 1e-6) == 1
    assert "nobody (threshold" in capsys.readouterr().out


def test_identify_by_exemplars_with_a_margin_and_a_threshold_from_the_store(model, store, recordings, capsys):
    words = ("identify", model, store, recordings / "s01" / "0.flac")
    answer = run_json(capsys, *words, "--threshold", "-1", "--score-by", "max", "--top", "1")
    assert (answer["score_by"], len(answer["matches"])) == ("max", 1)
    assert answer["lead"] > 0
    ahead = ("--threshold", "-1", "--score-by", "max", "--margin")
    assert run_json(capsys, *words, *ahead, answer["lead"])["identified"] == answer["identified"]
    assert run_json(capsys, *words, *ahead, answer["lead"] + 1e-6, code=1)["identified"] is None
    known = run_json(capsys, *words, "--false-positive-rate", "0.5", "--score-by", "max")
    with VoiceprintStore.open_existing(store) as opened:
        assert known["threshold"] == opened.open_set_threshold(0.5, score_by="max")
    refused = {
        ("--threshold", "0", "--false-positive-rate", "0.5"): "must not be given together",
        ("--threshold", "0", "--margin", "-1"): "--top must be at least 1 and --margin 0",
        ("--threshold", "0", "--score-by", "median"): "score_by must be voiceprint, mean, max or top-K",
    }
    for options, message in refused.items():
        assert message in error_of(capsys, *words, *options)


def test_a_recording_that_was_enrolled_alone_is_identified_with_a_cosine_of_one(model, store, recordings, capsys):
    assert run("enrol", model, store, "s05", recordings / "s05" / "0.flac") == 0
    answer = run_json(capsys, "identify", model, store, recordings / "s05" / "0.flac", "--threshold", "0.999")
    assert answer["identified"] == "s05"
    assert answer["matches"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_without_a_threshold_nobody_is_accepted_by_chance(model, store, recordings, capsys):
    error = error_of(capsys, "identify", model, store, recordings / "s01" / "0.flac")
    assert "threshold must be given for a model" in error


def test_list_and_show_tell_what_is_stored(store, model, capsys):
    answer = run_json(capsys, "store", "list", store)
    assert answer == {
        "store": str(store),
        "model_digest": load_bundle(model).digest,
        "dim": 8,
        "encrypted": False,
        "names": ["s00", "s01", "s02"],
    }
    assert run("store", "list", store) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["s00", "s01", "s02"]
    assert run("store", "show", store, "s01") == 0
    printed = capsys.readouterr().out
    assert "consent of s01" in printed
    assert "s01/1.flac" in printed


def test_delete_says_what_it_deleted_and_refuses_a_second_time(store, capsys):
    answer = run_json(capsys, "store", "delete", store, "s01")
    assert answer == {"store": str(store), "deleted": "s01", "utterances": 2}
    assert run_json(capsys, "store", "list", store)["names"] == ["s00", "s02"]
    assert b"consent of s01" not in store.read_bytes()
    assert run("store", "delete", store, "s00") == 0
    assert "deleted s00: the voiceprint, the note and 2 utterances" in capsys.readouterr().out
    assert "name must be an enrolled one, got 's01'" in error_of(capsys, "store", "delete", store, "s01")
    assert run_json(capsys, "store", "list", store)["names"] == ["s02"]


def test_export_holds_every_voiceprint_and_the_model(store, tmp_path, capsys):
    answer = run_json(capsys, "store", "export", store, "--out", tmp_path / "people.parquet")
    assert answer == {"export": str(tmp_path / "people.parquet"), "people": 3}
    table = pq.read_table(tmp_path / "people.parquet")
    with VoiceprintStore.open_existing(store) as opened:
        assert table.schema.metadata[b"model_digest"].decode() == opened.model_digest
        for row in table.to_pylist():
            person = opened.show(row["name"])
            np.testing.assert_array_equal(np.array(row["voiceprint"], np.float32), person.vector)
            assert (row["enrolled_at"], row["note"], row["num_utterances"]) == (person.enrolled_at, person.note, 2)
    assert "must end in .parquet" in error_of(capsys, "store", "export", store, "--out", tmp_path / "people.json")


def test_an_empty_store_is_exported_too(tmp_path, capsys):
    VoiceprintStore.open(tmp_path / "p.store", model_digest="m", dim=8).close()
    assert run("store", "export", tmp_path / "p.store", "--out", tmp_path / "p.parquet") == 0
    assert "0 voiceprints" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 0


@pytest.mark.slow
def test_the_key_comes_from_a_file_or_the_environment(model, recordings, tmp_path, monkeypatch, capsys):
    pytest.importorskip("cryptography")
    secret, key_file = tmp_path / "secret.store", tmp_path / "key.txt"
    key_file.write_text(KEY + "\n")
    words = (model, secret, "anna", recordings / "s00" / "0.flac", "--key-file", key_file)
    assert run_json(capsys, "enrol", *words)["encrypted"]
    assert b"anna" not in secret.read_bytes()
    assert "key must be given for an encrypted store" in error_of(capsys, "store", "list", secret)
    key_file.write_text("another key that nobody guesses")
    assert "key must be the one that" in error_of(capsys, "store", "list", secret, "--key-file", key_file)
    monkeypatch.setenv("CHNS_STORE_KEY", KEY)
    assert run_json(capsys, "store", "list", secret)["names"] == ["anna"]
    query = ("identify", model, secret, recordings / "s00" / "0.flac", "--threshold", "0.9")
    assert run_json(capsys, *query)["identified"] == "anna"


def test_another_model_is_refused_with_the_way_out(store, recordings, tmp_path, capsys):
    other = saved_model(tmp_path / "other", seed=1)
    for words in (("enrol", other, store, "s03"), ("identify", other, store)):
        threshold = ("--threshold", "0") if words[0] == "identify" else ()
        error = error_of(capsys, *words, recordings / "s03" / "0.flac", *threshold)
        assert "make a store for this one with `chns store re-embed" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("enrol", "{model}", "{store}", "s00", "{flac}"), "name must be new, got 's00'"),
        (("enrol", "{model}", "{store}", "new", "{flac}", "none.wav"), "recording must be a file, got none.wav"),
        (("enrol", "{model}", "{store}", "a\nb", "{flac}"), "name must be 1 to 200 printable characters"),
        (("enrol", "nowhere", "{store}", "new", "{flac}"), "model must be a folder with config.json"),
        (("enrol", "{model}", "{store}", "new", "{flac}", "--device", "abacus"), "device must be one that"),
        (("identify", "{model}", "none.store", "{flac}", "--threshold", "0"), "store must be a file, got"),
        (("identify", "{model}", "{store}", "{flac}", "--threshold", "0", "--top", "0"), "top must be at least 1"),
        (("store", "list", "none.store"), "store must be a file, got"),
        (("store", "list", "{flac}"), "store must be a file that `chns enrol` made, got another kind of file"),
        (("store", "show", "{store}", "nobody"), "name must be an enrolled one, got 'nobody'"),
        (("store", "list", "{store}", "--key-file", "none"), "key file must be a file, got none"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nobody_is_enrolled(
    model, store, recordings, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    flac = recordings / "s09" / "0.flac"
    error = error_of(capsys, *(word.format(model=model, store=store, flac=flac) for word in words))
    assert error.startswith("chns: error: ")
    assert message in error
    assert run_json(capsys, "store", "list", store)["names"] == ["s00", "s01", "s02"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people.store"]
