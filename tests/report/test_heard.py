"""What the report gives to be heard: worst errors, suspected labels, clips."""

import base64
import io
import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from fabricated_findings import fabricated_run

from chns.data.manifest import Manifest
from chns.evaluation.trials import Trials
from chns.report import heard
from chns.report.collect import judged_trials, odd_utterances
from chns.report.curve_figures import by_trial_list
from chns.report.drawing import run_groups
from chns.report.heard import Recordings, find_recordings, list_errors, odd_recordings, suspected_pairs, with_recordings
from chns.report.run_findings import ComparedList, ComparedRuns, OddUtterance, SuspectedDuplicate
from chns.report.speakers import TrainingSpeakers

TRIALS = Trials(list("aabbc"), list("bcdcd"), np.array([True, False, False, True, False]))


def run_with(name, scores, trials=TRIALS):
    return replace(
        fabricated_run(name, trial_lists=()), scored={"list": judged_trials("list", trials, np.array(scores))}
    )


def errors_of(*runs, recordings=None, most=5):
    return list_errors(by_trial_list(runs), run_groups(runs), recordings or Recordings(), most=most)[0]


def names_of(case):
    return tuple(side.recording.name for side in case.sides)


def test_errors_are_those_that_all_runs_together_get_most_wrong():
    first = run_with("supcon", [0.2, 0.9, 0.7, 0.6, 0.1])
    second = run_with("chns", [0.1, 0.8, 0.75, 0.5, 0.1])
    found = errors_of(first, second)
    assert [names_of(case) for case in found.false_accepts] == [("a", "c")]
    assert [names_of(case) for case in found.false_rejects] == [("a", "b"), ("b", "c")]
    (case,) = found.false_accepts
    assert [(one.label, one.score, one.wrong, one.asked) for one in case.scores] == [
        ("supcon", 0.9, 1, 1),
        ("chns", 0.8, 1, 1),
    ]
    assert heard._worst(np.array([0.1, 0.5, -1.0, 0.5, 0.3]), 3).tolist() == [1, 3, 4]
    assert heard._worst(np.array([-0.1, 0.0]), 3).tolist() == []


def test_the_runs_of_a_strategy_are_counted_together():
    runs = [run_with("chns/seed-0", [0.2, 0.9, 0.3, 0.8, 0.1]), run_with("chns/seed-1", [0.9, 0.5, 0.3, 0.8, 0.1])]
    (case,) = errors_of(*runs).false_rejects
    (score,) = case.scores
    assert (score.label, score.wrong, score.asked) == ("chns", 1, 2)
    assert score.score == pytest.approx(0.55)


def test_the_nearest_impostors_of_a_recording_are_those_of_the_list_but_the_trial_itself():
    (case, *_) = errors_of(run_with("supcon", [0.2, 0.9, 0.3, 0.8, 0.1])).false_accepts
    assert names_of(case) == ("a", "c")
    assert [[one.name for one in side.impostors] for side in case.sides] == [[], ["d"]]


def test_a_run_of_other_trials_is_left_out():
    others = Trials(list("xaabb"), list("ybcdc"), np.array([True, True, False, False, True]))
    found = errors_of(run_with("supcon", [0.2, 0.9, 0.3, 0.8, 0.1]), run_with("chns", [0.5] * 5, others))
    assert [one.label for one in found.false_accepts[0].scores] == ["supcon"]
    assert found.left_out == ["chns"]


def test_a_system_without_errors_has_none_to_show():
    found = errors_of(run_with("supcon", [0.9, 0.1, 0.1, 0.9, 0.1]))
    assert (found.false_accepts, found.false_rejects) == ([], [])


def test_without_being_asked_for_clips_nothing_is_decoded(hum_manifest, monkeypatch):
    monkeypatch.setattr(heard, "read_audio", None)
    manifest = Manifest.read(hum_manifest)
    found = Recordings({"list": manifest}).of_list("list", {"s00/0", "nobody"})
    assert found["s00/0"].path == "s00/0.flac"
    assert found["s00/0"].seconds == pytest.approx(manifest.durations_seconds[0])
    assert found["s00/0"].facts == f"{manifest.durations_seconds[0]:.1f}\N{NO-BREAK SPACE}s"
    assert (found["s00/0"].clip, found["nobody"].path, found["nobody"].facts) == (None, "", "")


def test_a_clip_is_the_beginning_of_the_recording_as_mp3_and_each_is_read_once(hum_manifest, monkeypatch):
    monkeypatch.setattr(heard, "CLIP_SECONDS", 0.5)
    recordings = Recordings({"list": Manifest.read(hum_manifest)}, with_clips=True)
    found = recordings.of_list("list", {"s00/0"})["s00/0"]
    assert -40 < found.level_dbfs < 0
    assert "dBFS" in found.facts
    kind, _, content = found.clip.partition(",")
    assert kind == "data:audio/mpeg;base64"
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate_hz == 16_000
    assert len(samples) == pytest.approx(8_000, abs=2_500)  # an encoder of MP3 adds silence at both ends
    assert recordings.of_list("list", {"s00/0"})["s00/0"] is not None
    assert (recordings.num_clips, recordings.num_bytes) == (1, len(content))


def test_clips_end_where_the_page_would_be_too_large(hum_manifest, monkeypatch):
    monkeypatch.setattr(heard, "MOST_CLIP_BYTES", 15_000)
    recordings = Recordings({"list": Manifest.read(hum_manifest)}, with_clips=True)
    found = recordings.of_list("list", {f"s00/{number}" for number in range(5)})
    clips = [one.clip for one in found.values() if one.clip is not None]
    assert 0 < len(clips) < 5
    assert recordings.num_bytes <= 15_000
    assert all(one.level_dbfs is not None for one in found.values())


def test_a_recording_that_is_gone_is_said_to_be_unreadable(hum_manifest, tmp_path, caplog):
    manifest = Manifest.read(hum_manifest, root=tmp_path)
    found = Recordings({"list": manifest}, with_clips=True).of_list("list", {"s00/0"})["s00/0"]
    assert "cannot be read" in found.facts
    assert "s00/0 cannot be heard in the report" in caplog.text


def test_a_comparison_names_the_manifests_of_its_lists(hum_manifest, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(os.path.commonpath([hum_manifest, tmp_path]))
    gone = str(tmp_path / "gone.parquet")
    lists = [
        ComparedList(name=name, speakers=1, targets=1, nontargets=1, strategies=[], manifest=manifest)
        for name, manifest in (("hard", str(hum_manifest)), ("random", gone), ("more", gone), ("old", ""))
    ]
    comparison = ComparedRuns(baseline="a", seeds=[0], steps=1, segments_per_step=1, lists=lists, verdicts=[], runs=[])
    assert set(find_recordings(["hard"], comparison).manifests) == {"hard"}
    assert caplog.text.count("gone.parquet") == 1
    assert set(find_recordings(["x", "y"], None, manifest=hum_manifest).manifests) == {"x", "y"}
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as unread:
        unread.setattr(Manifest, "read", None)  # a call would fail
        assert find_recordings(["hard"], replace(comparison, lists=lists[:1])).manifests == {}
    assert "recordings of hard are not looked up: what a run names must be below its folder" in caplog.text
    Manifest.read(hum_manifest).write(tmp_path / "m.parquet")  # here, its recordings are elsewhere
    near = replace(comparison, lists=[replace(lists[0], manifest=str(tmp_path / "m.parquet"))])
    assert find_recordings(["hard"], near).manifests == {}


def test_pairs_that_most_runs_suspect_come_first_with_the_surest_values_and_recordings(hum_manifest):
    manifest = Manifest.read(hum_manifest)

    def suspected(*rows):
        return replace(
            fabricated_run("supcon"),
            utterances=manifest,
            duplicates=[
                SuspectedDuplicate(speakers=s, similarity=a, own_similarity=b, utterances=(f"{s[0]}/1", f"{s[1]}/2"))
                for s, a, b in rows
            ],
        )

    both = suspected((("s01", "s02"), 0.80, 0.80), (("s03", "s04"), 0.99, 0.80))
    one = suspected((("s02", "s01"), 0.88, 0.80))
    nobody = replace(one, duplicates=None)
    pairs = suspected_pairs([both, one, nobody])
    assert [(set(pair.speakers), pair.suspected_by, pair.asked) for pair in pairs] == [
        ({"s01", "s02"}, 2, 2),
        ({"s03", "s04"}, 1, 2),
    ]
    assert pairs[0].similarity == 0.88
    heard_pairs = with_recordings(pairs, [both, one, nobody], Recordings())
    assert heard_pairs[0].speakers == ("s02", "s01")
    assert [one.path for one in heard_pairs[0].recordings] == ["s02/2.flac", "s01/1.flac"]


def test_an_utterance_of_somebody_else_is_found_and_told_with_both_similarities(hum_manifest):
    rng = np.random.default_rng(0)
    manifest = Manifest.read(hum_manifest)
    voices = rng.normal(size=(20, 24))
    embeddings = voices[manifest.speaker_labels] + 0.2 * rng.normal(size=(100, 24))
    embeddings[7] = voices[11] + 0.2 * rng.normal(size=24)
    speakers = TrainingSpeakers(
        names=manifest.speakers,
        places=np.arange(20),
        num_training_speakers=20,
        labels=manifest.speaker_labels,
        embeddings=embeddings.astype(np.float32),
        utterances=manifest,
    )
    (odd,) = odd_utterances(speakers)
    assert (odd.utterance, odd.speaker, odd.other) == ("s01/2", "s01", "s11")
    assert odd.similarity > 0.8 > odd.own_similarity
    run = replace(fabricated_run(), utterances=manifest, odd_utterances=[odd])
    other = replace(run, odd_utterances=[odd, OddUtterance("s02/0", "s02", 0.1, "s03", 0.9)])
    first, second = odd_recordings([run, other, replace(run, utterances=None)], Recordings(), most=5)
    assert (first.recording.path, first.found_by, first.asked) == ("s01/2.flac", 2, 2)
    assert (second.odd.utterance, second.found_by) == ("s02/0", 1)


def test_a_model_is_too_weak_if_it_suspects_more_pairs_than_two_names_each_would_make():
    run = fabricated_run(num_speakers=60)
    one = SuspectedDuplicate(speakers=("a", "b"), similarity=0.9, own_similarity=0.9)
    assert not replace(run, duplicates=[one] * 30).is_too_weak_to_suspect
    assert replace(run, duplicates=[one] * 31).is_too_weak_to_suspect
    assert not replace(run, duplicates=None).is_too_weak_to_suspect
