"""Manifests enrolled and identified, and stores made anew for another model: all of it, once, and after a kill."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_models import saved_model

from chns.cli import main
from chns.data import Manifest, read_audio, write_audio
from chns.inference import bulk, hearing
from chns.inference.verifier import Verifier
from chns.store.voiceprints import VoiceprintStore

RATE_HZ = 16_000
KEY = "a key of the kind that nobody guesses"


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv("CHNS_STORE_KEY", raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("bulk") / "model", seed=0)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("bulk") / "other", seed=1)


@pytest.fixture
def people(hum_manifest, tmp_path):
    """Six people with two recordings each, in a folder of the test's own."""
    everybody = Manifest.read(hum_manifest)
    rows = [place for place, name in enumerate(everybody.column("utterance")) if name < "s06" and name[-1] in "01"]
    shutil.copytree(hum_manifest.parent, tmp_path / "audio")
    chosen = everybody.take(rows)
    path = tmp_path / "audio" / "people.parquet"
    Manifest(chosen.table, root=path.parent).write(path)
    return path


def run(*words):
    return main([str(word) for word in (*words,)])


def enrol(model, store, manifest, *words, code=0):
    assert run("enrol", model, store, "--manifest", manifest, "--workers", 0, *words) == code


def json_of(capsys, *words, code=0):
    capsys.readouterr()
    assert run(*words, "--json") == code
    return json.loads(capsys.readouterr().out)


def error_of(capsys, *words):
    capsys.readouterr()
    assert run(*words) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def enrolled_in(path, key=None):
    with VoiceprintStore.open_existing(path, key=key) as store:
        return {person.name: person for person in store.voiceprints()}


def with_rows(manifest, rows, name="more.parquet"):
    """The manifest with further rows, which fill in what they leave out."""
    usual = {"offset_seconds": 0.0, "duration_seconds": 1.0, "sample_rate_hz": RATE_HZ}
    there = Manifest.read(manifest)
    more = Manifest.from_rows([{**usual, **row} for row in rows], root=there.root)
    path = manifest.with_name(name)
    Manifest.merge([there, more], same_speakers=True).write(path)
    return path


def as_if_killed(monkeypatch, after):
    """The process ends when so many people are enrolled."""
    enrolled, enrols = itertools.count(1), VoiceprintStore.enrol

    def ends(store, *arguments, **options):
        if next(enrolled) > after:
            raise KeyboardInterrupt
        return enrols(store, *arguments, **options)

    monkeypatch.setattr(VoiceprintStore, "enrol", ends)


def test_a_manifest_is_enrolled_as_one_would_enrol_its_people_one_by_one(model, people, tmp_path, capsys):
    for number in range(2):
        words = ("enrol", model, tmp_path / "single.store", "s00", people.parent / f"s00/{number}.flac")
        assert run(*words, *(["--add"] if number else [])) == 0
    words = ("enrol", model, tmp_path / "p.store", "--manifest", people, "--note", "consent of May", "--workers", 1)
    summary = json_of(capsys, *words, "--report", tmp_path / "r.csv")
    assert (summary["enrolled_people"], summary["enrolled"], summary["rejected"], summary["people"]) == (6, 12, 0, 6)
    stored = enrolled_in(tmp_path / "p.store")
    assert {person.num_utterances for person in stored.values()} == {2}
    assert {person.note for person in stored.values()} == {"consent of May"}
    single = enrolled_in(tmp_path / "single.store")["s00"]
    np.testing.assert_allclose(stored["s00"].vector, single.vector, atol=1e-5)
    report = table(tmp_path / "r.csv")
    assert [row["utterance"] for row in report] == Manifest.read(people).column("utterance")
    assert {row["outcome"] for row in report} == {"enrolled"}
    assert all("of sound; less than 2 s is unreliable" in row["warnings"] for row in report)


@pytest.mark.slow
def test_a_model_without_weights_enrols_a_manifest_too(people, tmp_path):
    """The packaged model is a graph, which takes one recording at a time."""
    folder = Verifier.load()
    wanted = hearing.wanted_of(Manifest.read(people).take([0, 1, 2, 3]))
    path = tmp_path / "p.store"

    def open_store():
        return VoiceprintStore.open(path, model_digest=folder.model_digest, dim=folder.dim)

    assert {one.outcome for one in bulk.enrol_many(folder, open_store, wanted, workers=0)} == {"enrolled"}
    heard = [folder.embed(people.parent / f"s01/{number}.flac").vector for number in range(2)]
    mean = np.mean(heard, axis=0)
    np.testing.assert_allclose(enrolled_in(path)["s01"].vector, mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.slow
def test_long_recordings_are_heard_in_windows_as_a_single_one_is(model, people, tmp_path, monkeypatch):
    monkeypatch.setattr(hearing, "_LONG_SECONDS", 1.0)
    enrol(model, tmp_path / "p.store", people)
    for name, person in enrolled_in(tmp_path / "p.store").items():
        heard = [Verifier.load(model).embed(people.parent / name / f"{number}.flac").vector for number in range(2)]
        assert person.vector @ np.mean(heard, axis=0) / np.linalg.norm(np.mean(heard, axis=0)) > 1 - 1e-5


def test_what_cannot_be_enrolled_is_reported_with_the_reason_and_stops_nobody_else(model, people, tmp_path, capsys):
    write_audio(people.parent / "silent.flac", np.zeros(RATE_HZ, np.float32), sample_rate_hz=RATE_HZ)
    (people.parent / "broken.flac").write_bytes(b"fLaC and nothing else")
    manifest = with_rows(
        people,
        [
            {"utterance": "a", "speaker": "s00", "path": "gone.flac"},
            {"utterance": "b", "speaker": "mute", "path": "silent.flac"},
            {"utterance": "c", "speaker": "=cmd()", "path": "broken.flac"},
            {"utterance": "d", "speaker": "s01", "path": "s01/2.flac", "duration_seconds": 0.01},
            {"utterance": "e", "speaker": " two words ", "path": "s01/2.flac"},
        ],
    )
    enrol(model, tmp_path / "p.store", manifest, "--report", tmp_path / "r.csv", code=1)
    assert "6 people enrolled from 12 recordings; 5 recordings rejected, nothing enrolled of 3 people" in (
        capsys.readouterr().out
    )
    rejected = {row["utterance"]: row for row in table(tmp_path / "r.csv") if row["outcome"] == "rejected"}
    reasons = {
        "a": "gone.flac",
        "b": "recording must hold sound, got silence",
        "c": "broken.flac",
        "d": "recording must hold at least 0.1 s, got 0.010 s",
        "e": "name must be 1 to 200 printable characters without space at the ends",
    }
    assert rejected.keys() == reasons.keys()
    assert all(reason in rejected[name]["reason"] for name, reason in reasons.items())
    assert rejected["c"]["speaker"] == "'=cmd()"
    assert (tmp_path / "r.csv").stat().st_mode & 0o777 == 0o600
    stored = enrolled_in(tmp_path / "p.store")
    assert stored.keys() == {f"s0{number}" for number in range(6)}
    assert stored["s00"].num_utterances == 2


def test_after_a_kill_the_same_command_enrols_the_rest_and_nobody_twice(model, people, tmp_path, monkeypatch, capsys):
    path = tmp_path / "p.store"
    with monkeypatch.context() as patched:
        as_if_killed(patched, after=2)
        enrol(model, path, people, code=130)
    before = enrolled_in(path)
    assert len(before) == 2
    enrol(model, path, people, "--report", tmp_path / "r.csv")
    assert "4 people enrolled from 8 recordings; 4 recordings enrolled before" in capsys.readouterr().out
    stored = enrolled_in(path)
    assert {person.num_utterances for person in stored.values()} == {2}
    assert all(stored[name].enrolled_at == person.enrolled_at for name, person in before.items())
    assert {row["speaker"] for row in table(tmp_path / "r.csv") if row["outcome"] == "present"} == set(before)
    enrol(model, path, people)
    assert {person.num_utterances for person in enrolled_in(path).values()} == {2}


def test_a_recording_that_was_gone_is_enrolled_when_it_is_back(model, people, tmp_path):
    path, lost = tmp_path / "p.store", people.parent / "s03" / "1.flac"
    lost.rename(tmp_path / "away.flac")
    enrol(model, path, people, code=1)
    assert enrolled_in(path)["s03"].num_utterances == 1
    (tmp_path / "away.flac").rename(lost)
    enrol(model, path, people)
    assert enrolled_in(path)["s03"].num_utterances == 2


def test_somebody_of_whom_other_recordings_are_enrolled_needs_add(model, people, tmp_path, capsys):
    path = tmp_path / "p.store"
    assert run("enrol", model, path, "s02", people.parent / "s09" / "0.flac") == 0
    enrol(model, path, people, code=1)
    assert "2 recordings rejected, nothing enrolled of 1 person: name must be new, got s02" in capsys.readouterr().out
    assert enrolled_in(path)["s02"].num_utterances == 1
    enrol(model, path, people, "--add")
    assert enrolled_in(path)["s02"].num_utterances == 3
    enrol(model, path, people, "--add")
    assert enrolled_in(path)["s02"].num_utterances == 3


def test_names_that_look_the_same_do_not_become_one_person(model, people, tmp_path):
    manifest = with_rows(
        people,
        [
            {"utterance": "a", "speaker": "Ren\u00e9", "path": "s10/0.flac"},
            {"utterance": "b", "speaker": "Rene\u0301", "path": "s11/0.flac"},
        ],
    )
    enrol(model, tmp_path / "p.store", manifest, "--report", tmp_path / "r.csv", code=1)
    assert enrolled_in(tmp_path / "p.store")["Ren\u00e9"].num_utterances == 1
    assert [row["utterance"] for row in table(tmp_path / "r.csv") if row["outcome"] == "rejected"] == ["b"]


def test_options_that_do_not_go_together_are_refused(model, people, tmp_path, capsys):
    store = tmp_path / "p.store"
    assert "must be given, got neither" in error_of(capsys, "enrol", model, store, "anna")
    both = ("enrol", model, store, "anna", "--manifest", people)
    assert "must not be given together, got both, 'anna'" in error_of(capsys, *both)
    words = ("enrol", model, store, "anna", people.parent / "s00/0.flac", "--report", tmp_path / "r.csv")
    assert "--report must come with --manifest" in error_of(capsys, *words)
    assert "FILE or --manifest must be given" in error_of(capsys, "identify", model, store)
    assert "must be given together" in error_of(capsys, "identify", model, store, "--manifest", people)
    assert "--workers must be at least 0" in error_of(
        capsys, "enrol", model, store, "--manifest", people, "--workers", "-1"
    )
    fast = with_rows(people, [{"utterance": "a", "speaker": "s00", "path": "s00/2.flac", "speed_factor": "1.1"}])
    assert "manifest must be of recordings as they are, got speeds" in error_of(
        capsys, "enrol", model, store, "--manifest", fast
    )


@pytest.fixture
def store(model, people, tmp_path):
    path = tmp_path / "people.store"
    enrol(model, path, people)
    return path


@pytest.fixture
def calls(hum_manifest, people):
    """Other recordings of four enrolled people and of four strangers, and one that is gone."""
    everybody = Manifest.read(hum_manifest)
    rows = [
        place for place, name in enumerate(everybody.column("utterance")) if "s02" <= name < "s10" and name[-1] == "3"
    ]
    path = people.with_name("calls.parquet")
    Manifest(everybody.take(rows).table, root=path.parent).write(path)
    return with_rows(path, [{"utterance": "x", "speaker": "s02", "path": "gone.flac"}], "all_calls.parquet")


def identify(model, store, calls, out, *words):
    return ("identify", model, store, "--manifest", calls, "--out", out, "--workers", 0, "--threshold", -1, *words)


def test_a_manifest_is_identified_as_its_recordings_are_one_by_one(model, store, calls, tmp_path, capsys):
    summary = json_of(capsys, *identify(model, store, calls, tmp_path / "who.csv"), code=1)
    rows = table(tmp_path / "who.csv")
    assert [row["utterance"] for row in rows] == Manifest.read(calls).column("utterance")
    assert "gone.flac" in rows[-1]["rejected"]
    for row in rows[:3]:
        words = ("identify", model, store, calls.parent / f"{row['utterance']}.flac", "--threshold", "-1")
        first, second = json_of(capsys, *words, "--top", "2")["matches"]
        assert (row["identified"], row["best"], row["second"]) == (first["name"], first["name"], second["name"])
        assert float(row["score"]) == pytest.approx(first["score"], abs=1e-4)
        assert float(row["second_score"]) == pytest.approx(second["score"], abs=1e-4)
    heard = [row for row in rows if not row["rejected"]]
    right = sum(row["identified"] == row["speaker"] for row in heard)
    assert (summary["known"], summary["strangers"], summary["rejected"]) == (4, 4, 1)
    assert summary["strangers_named"] == 4  # any score is accepted
    assert summary["recall"] == right / 4
    assert summary["precision"] == right / 8


def test_who_is_not_identified_counts_against_recall_alone(model, store, calls, tmp_path, capsys):
    words = identify(model, store, calls, tmp_path / "who.csv", "--margin", 2)
    summary = json_of(capsys, *words, code=1)
    assert {row["identified"] for row in table(tmp_path / "who.csv")} == {""}
    assert (summary["recall"], summary["precision"], summary["strangers_named"]) == (0, None, 0)


def test_recordings_that_are_enrolled_themselves_say_nothing_about_recall(model, store, people, tmp_path, capsys):
    summary = json_of(capsys, *identify(model, store, people, tmp_path / "who.csv"))
    assert (summary["known"], summary["left_out"], summary["recall"]) == (0, 12, None)
    assert run(*identify(model, store, people, tmp_path / "who.csv")) == 0
    assert "12 utterances enrolled from this very recording" in capsys.readouterr().out


def test_identifying_goes_on_after_a_kill_with_what_was_done(model, store, calls, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hearing, "_BATCH_SECONDS", 3.0)
    whole = tmp_path / "whole.csv"
    assert run(*identify(model, store, calls, whole)) == 1
    out, part = tmp_path / "who.csv", tmp_path / "who.csv.part"
    done, embeds = itertools.count(1), Verifier.raw_embeddings

    def ends(verifier, waveforms):
        if next(done) > 2:
            raise KeyboardInterrupt
        return embeds(verifier, waveforms)

    with monkeypatch.context() as patched:
        patched.setattr(Verifier, "raw_embeddings", ends)
        assert run(*identify(model, store, calls, out)) == 130
    assert not out.exists()
    num_done = len(part.read_text().splitlines()) - 1
    assert num_done > 0
    with part.open("a") as file:
        file.write("3,s0")  # what was cut off
    heard = []
    monkeypatch.setattr(Verifier, "raw_embeddings", lambda verifier, one: heard.extend(one) or embeds(verifier, one))
    assert run(*identify(model, store, calls, out)) == 1
    assert len(heard) == 8 - num_done
    assert not part.exists()
    assert out.read_text() == whole.read_text()


def test_what_was_done_with_another_store_or_threshold_does_not_count(model, store, calls, tmp_path, monkeypatch):
    out, part = tmp_path / "who.csv", tmp_path / "who.csv.part"
    part.write_text("another key\n0,s02/3,s02,nobody,,,,,,\n")
    assert run(*identify(model, store, calls, out)) == 1
    assert "nobody" not in out.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, KEY])
def test_a_store_is_made_anew_for_another_model_from_the_paths_it_kept(
    model, other_model, people, tmp_path, monkeypatch, capsys, key
):
    if key is not None:
        monkeypatch.setenv("CHNS_STORE_KEY", key)
    old, new = tmp_path / "old.store", tmp_path / "new.store"
    enrol(model, old, people, "--note", "consent of May")
    stereo = np.stack([read_audio(people.parent / f"s1{number}/0.flac")[: RATE_HZ // 2] for number in range(2)], axis=1)
    import soundfile

    soundfile.write(tmp_path / "two people.wav", stereo, RATE_HZ)
    assert run("enrol", model, old, "left", tmp_path / "two people.wav", "--channel", "left") == 0
    content = old.read_bytes()
    words = ("store", "re-embed", old, other_model, "--out", new, "--workers", 0)
    with monkeypatch.context() as patched:
        as_if_killed(patched, after=3)
        assert run(*words) == 130
    summary = json_of(capsys, *words)
    assert (summary["people"], summary["people_before"], summary["present_people"]) == (7, 7, 3)
    assert summary["present"] + summary["enrolled"] == 13
    assert old.read_bytes() == content
    key = None if key is None else key.encode()
    before, after = enrolled_in(old, key), enrolled_in(new, key)
    heard = Verifier.load(other_model)
    for name, person in before.items():
        assert (after[name].note, after[name].enrolled_at) == (person.note, person.enrolled_at)
        assert after[name].sources == person.sources
    expected = heard.embed(tmp_path / "two people.wav", channel="left").vector
    np.testing.assert_allclose(after["left"].vector, expected, atol=1e-5)
    embeddings = [heard.embed(people.parent / f"s04/{number}.flac").vector for number in range(2)]
    np.testing.assert_allclose(after["s04"].vector @ np.sum(embeddings, axis=0) > 0.99, True)


@pytest.mark.slow
def test_a_store_is_made_anew_from_a_manifest_where_paths_are_gone(model, other_model, store, people, tmp_path, capsys):
    shutil.move(people.parent, tmp_path / "moved")
    new, report = tmp_path / "new.store", tmp_path / "r.csv"
    words = ("store", "re-embed", store, other_model, "--out", new, "--report", report, "--workers", 0)
    assert run(*words) == 1
    assert "12 recordings rejected, nothing enrolled of 6 people" in capsys.readouterr().out
    assert all("Give a manifest" in row["reason"] for row in table(report))
    few = tmp_path / "moved" / "few.parquet"
    Manifest.read(tmp_path / "moved" / "people.parquet").take(range(10)).write(few)
    more = with_rows(few, [{"utterance": "a", "speaker": "stranger", "path": "s12/0.flac"}])
    assert run(*words, "--manifest", more) == 1
    assert "5 of the 6 people" in capsys.readouterr().out
    assert enrolled_in(new).keys() == {f"s0{number}" for number in range(5)}
    assert [(row["speaker"], row["outcome"]) for row in table(report)][-1] == ("s05", "rejected")
    assert "model must be another than that of the store" in error_of(
        capsys, "store", "re-embed", store, model, "--out", tmp_path / "x.store"
    )


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_done_twice_under_real_kills(model, people, tmp_path):
    path = tmp_path / "p.store"
    words = [sys.executable, "-m", "chns", "enrol", model, path, "--manifest", people, "--workers", 1, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    acknowledged = {}
    for delay in (0.0, 0.02, 0.05):
        process = subprocess.Popen(list(map(str, words)), env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = enrolled_in(path)
        assert all(now[name].num_utterances == count for name, count in acknowledged.items())
        acknowledged = {name: person.num_utterances for name, person in now.items()}
    subprocess.run(list(map(str, words)), env=environment, check=True, stdout=subprocess.DEVNULL)
    assert {person.num_utterances for person in enrolled_in(path).values()} == {2}
    assert len(enrolled_in(path)) == 6
