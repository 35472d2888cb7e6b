"""Copies, speakers with too little, corrected manifests, and going on after a kill."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from made_corpus import RATE, good_corpus, voice

from chns.core import FolderInUseError, ManifestError, locked_folder
from chns.data import resumable
from chns.data.check import Limits, check_manifest, summary_by_kind
from chns.data.check import corpus as corpus_module
from chns.data.check.findings import groups_of_copies


def check(corpus, tmp_path, **settings):
    return check_manifest(corpus.manifest, kept=tmp_path / "kept", **{"jobs": 1, **settings})


def details(checked):
    return {checked.manifest[f.row].name: (f.kind, f.detail) for f in checked.findings}


# ----- copies


def test_of_copies_within_a_speaker_the_first_stays(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    for number in (7, 8):
        corpus.add(f"s0/{number}", voice((0, 1)))
    checked = check(corpus, tmp_path)
    assert details(checked) == {
        "s0/7": ("duplicate", "same samples as s0/1"),
        "s0/8": ("duplicate", "same samples as s0/1"),
    }
    assert checked.fixed_manifest().column("utterance") == ["s0/0", "s0/1", "s1/0", "s1/1"]


def test_copies_across_speakers_are_all_dropped(tmp_path):
    corpus = good_corpus(tmp_path / "corpus", utterances=3)
    corpus.add("s1/copy", voice((0, 1)))
    checked = check(corpus, tmp_path)
    assert details(checked) == {
        "s0/1": ("shared_by_speakers", "same samples as s1/copy of speaker s1"),
        "s1/copy": ("shared_by_speakers", "same samples as s0/1 of speaker s0"),
    }
    assert {"s0/1", "s1/copy"}.isdisjoint(checked.fixed_manifest().column("utterance"))


def test_a_lossless_copy_in_another_container_is_found_and_a_lossy_or_cut_one_is_not(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    samples, rate = soundfile.read(tmp_path / "corpus" / "s0" / "0.flac", dtype="float32")
    corpus.add("s0/wav", samples, rate=rate, suffix=".wav")
    corpus.add("s0/stereo", np.stack([samples, samples], axis=1), rate=rate, suffix=".wav")
    corpus.add("s0/ogg", samples, rate=rate, suffix=".ogg")
    corpus.add("s0/cut", samples[1:], rate=rate)
    assert list(details(check(corpus, tmp_path))) == ["s0/wav", "s0/stereo"]


def test_silence_is_no_copy_of_silence(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    for speaker in ("s0", "s1"):
        corpus.add(f"{speaker}/silent", np.zeros(RATE))
    assert {kind for kind, _ in details(check(corpus, tmp_path)).values()} == {"silent"}


def test_the_same_part_of_a_file_under_two_names_is_a_copy(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    for name in ("part", "again"):
        corpus.row(f"s1/{name}", "0.flac", offset=0.5, duration=1.0)
    corpus.row("s1/other", "0.flac", offset=0.75, duration=1.0)
    assert details(check(corpus, tmp_path)) == {"s1/again": ("duplicate", "same samples as s1/part")}


def test_groups_of_copies_are_those_of_equal_digests():
    rng = np.random.default_rng(0)
    digests = [None if value == 0 else bytes([value, 0]) for value in rng.integers(0, 40, 200)]
    expected = {}
    for row, digest in enumerate(digests):
        if digest is not None:
            expected.setdefault(digest, []).append(row)
    groups = sorted(group.tolist() for group in groups_of_copies(digests))
    assert groups == sorted(rows for rows in expected.values() if len(rows) > 1)
    assert list(groups_of_copies([None, None])) == list(groups_of_copies([b"a", b"b"])) == []


# ----- speakers


def test_a_speaker_is_judged_by_the_utterances_that_remain(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    corpus.add("s2/good", voice(5))
    corpus.add("s2/silent", np.zeros(RATE))
    checked = check(corpus, tmp_path)
    [silent, poor] = checked.findings
    assert (silent.kind, poor.kind, poor.speaker, poor.value) == ("silent", "few_utterances", "s2", 1.0)
    assert poor.detail == "1 usable, 2 needed"
    assert "s2/good" in checked.fixed_manifest().column("utterance")
    stricter = check(corpus, tmp_path, also_drop={"few_utterances"})
    assert stricter.fixed_manifest().speakers == ["s0", "s1"]


def test_what_is_dropped_on_request_counts_too(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    corpus.add("s2/good", voice(5))
    corpus.add("s2/offset", voice(6) + 0.1)
    assert [f.kind for f in check(corpus, tmp_path).findings] == ["dc_offset"]
    assert not check(corpus, tmp_path).needs_fixing
    stricter = check(corpus, tmp_path, also_drop={"dc_offset"})
    assert [f.kind for f in stricter.findings] == ["dc_offset", "few_utterances"]
    assert stricter.needs_fixing


def test_sessions_are_counted_where_they_are_known(tmp_path):
    corpus = good_corpus(tmp_path / "corpus", speakers=3)
    assert check(corpus, tmp_path).findings == []
    for row, session in zip(corpus.rows, ["a", "b", "a", "a", "", ""], strict=True):
        row["session"] = session
    [finding] = check(corpus, tmp_path).findings
    assert (finding.kind, finding.speaker, finding.row) == ("few_sessions", "s1", None)
    assert check(corpus, tmp_path, limits=Limits(min_sessions=1)).findings == []


# ----- the corrected manifest and the report


def test_the_corrected_manifest_passes_the_check(tmp_path):
    corpus = good_corpus(tmp_path / "corpus", utterances=4)
    corpus.rows[0]["duration_seconds"] = 9.0
    corpus.rows[1]["sample_rate_hz"] = 44_100
    corpus.add("s0/copy", voice((0, 3)))
    corpus.add("s1/silent", np.zeros(RATE))
    before = {path: path.read_bytes() for path in (tmp_path / "corpus").rglob("*.flac")}
    checked = check(corpus, tmp_path)
    assert [f.kind for f in checked.findings] == ["silent", "duplicate", "wrong_duration", "wrong_rate"]
    fixed = checked.fixed_manifest()
    assert len(fixed) == 8
    assert (fixed[0].duration_seconds, fixed[1].sample_rate_hz) == (2.0, RATE)
    again = check_manifest(fixed, kept=tmp_path / "kept", jobs=1)
    assert again.findings == []
    assert not again.needs_fixing
    assert {path: path.read_bytes() for path in before} == before


def test_columns_that_a_corpus_knows_stay(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    for row in corpus.rows:
        row["gender"] = "f"
    assert check(corpus, tmp_path).fixed_manifest().column("gender") == ["f"] * 4


def test_nothing_usable_is_an_error(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    shutil.rmtree(tmp_path / "corpus")
    with pytest.raises(ManifestError, match="manifest must hold a usable utterance, got none of 4"):
        check(corpus, tmp_path).fixed_manifest()


def test_the_report_has_a_row_a_finding_and_the_summary_counts_them(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    corpus.add("s2/a", np.zeros(RATE))
    checked = check(corpus, tmp_path)
    checked.write(tmp_path / "report.parquet")
    assert pq.read_table(tmp_path / "report.parquet").to_pylist() == [
        {"utterance": "s2/a", "speaker": "s2", "finding": "silent", "action": "drop", "value": -100.0,
         "detail": "mean level -100 dBFS"},
        {"utterance": None, "speaker": "s2", "finding": "few_utterances", "action": "keep", "value": 0.0,
         "detail": "0 usable, 2 needed"},
    ]  # fmt: skip
    assert [(line.kind, line.number, line.action, line.example) for line in summary_by_kind(checked)] == [
        ("silent", 1, "drop", "s2/a"),
        ("few_utterances", 1, "keep", "s2"),
    ]
    assert not (tmp_path / "kept").exists()


def test_a_clean_corpus_has_an_empty_report_with_all_columns(tmp_path):
    checked = check(good_corpus(tmp_path / "corpus"), tmp_path)
    checked.write(tmp_path / "report.parquet")
    table = pq.read_table(tmp_path / "report.parquet")
    assert table.num_rows == 0
    assert table.column_names == ["utterance", "speaker", "finding", "action", "value", "detail"]


# ----- going on


@pytest.fixture
def counted(monkeypatch):
    """Utterances that were decoded, in order; stops like Ctrl-C when ``limit`` are."""

    class Counted(list):
        limit = None

    decoded = Counted()
    genuine = corpus_module.measure_utterance

    def measure(utterance, *, whole_file):
        if decoded.limit is not None and len(decoded) >= decoded.limit:
            raise KeyboardInterrupt
        decoded.append(utterance.name)
        return genuine(utterance, whole_file=whole_file)

    monkeypatch.setattr(corpus_module, "measure_utterance", measure)
    monkeypatch.setattr(resumable, "BLOCK_UTTERANCES", 4)
    return decoded


def test_a_killed_check_goes_on_and_comes_to_the_same(tmp_path, counted):
    corpus = good_corpus(tmp_path / "corpus", speakers=5)
    corpus.add("s0/silent", np.zeros(RATE))
    whole = check_manifest(corpus.manifest, kept=tmp_path / "other", jobs=1)
    assert len(counted) == 11
    counted.clear()
    counted.limit = 7
    with pytest.raises(KeyboardInterrupt):
        check(corpus, tmp_path)
    counted.limit = None
    continued = check(corpus, tmp_path)
    assert counted[7:] == corpus.manifest.column("utterance")[4:]
    assert continued.measures == whole.measures
    assert continued.findings == whole.findings


def test_limits_can_be_changed_without_decoding_again(tmp_path, counted):
    corpus = good_corpus(tmp_path / "corpus")
    check(corpus, tmp_path)
    checked = check(corpus, tmp_path, limits=Limits(min_seconds=3))
    assert [f.kind for f in checked.findings] == ["too_short"] * 4 + ["few_utterances"] * 2
    assert len(counted) == 4


def test_another_manifest_or_root_is_checked_anew(tmp_path, counted):
    corpus = good_corpus(tmp_path / "corpus")
    check(corpus, tmp_path)
    corpus.rows[0]["duration_seconds"] = 1.0
    assert [f.kind for f in check(corpus, tmp_path).findings] == ["wrong_duration"]
    shutil.copytree(tmp_path / "corpus", tmp_path / "moved")
    corpus.root = tmp_path / "moved"
    check(corpus, tmp_path)
    assert len(counted) == 12


def test_one_process_at_a_time_keeps_what_is_done(tmp_path, counted):
    corpus = good_corpus(tmp_path / "corpus")
    with locked_folder(tmp_path / "kept"), pytest.raises(FolderInUseError, match="one process at a time, got another"):
        check(corpus, tmp_path)
    assert counted == []


def test_processes_find_what_one_finds(tmp_path, monkeypatch):
    corpus = good_corpus(tmp_path / "corpus", utterances=3)
    corpus.add("s0/silent", np.zeros(RATE))
    alone = check_manifest(corpus.manifest, kept=tmp_path / "alone", jobs=1)
    monkeypatch.setattr(resumable, "_UTTERANCES_PER_WORKER", 2)
    monkeypatch.setattr(resumable, "BLOCK_UTTERANCES", 5)
    monkeypatch.setattr(resumable, "_BLOCKS_A_POOL", 1)
    shared = check(corpus, tmp_path, jobs=2)
    assert shared.measures == alone.measures
    assert len(list((tmp_path / "kept").glob("*.parquet"))) == 2


# ----- wrong arguments


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_seconds": -1}, "min_seconds must be a number from 0 below max_seconds, got -1 and 180"),
        ({"min_seconds": 3, "max_seconds": 2}, "min_seconds must be a number from 0 below max_seconds, got 3 and 2"),
        ({"min_seconds": float("nan")}, "min_seconds must be a number from 0 below max_seconds, got nan"),
        ({"min_utterances": 0}, "min_utterances and min_sessions must be at least 1, got 0 and 2"),
        ({"min_sessions": 0}, "min_utterances and min_sessions must be at least 1, got 2 and 0"),
    ],
)
def test_limits_make_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        Limits(**settings)


def test_what_is_wrong_is_said_before_anything_is_decoded(tmp_path, counted):
    corpus = good_corpus(tmp_path / "corpus")
    with pytest.raises(ValueError, match=r"kind to drop must be one of missing, .*, got 'loud'"):
        check(corpus, tmp_path, also_drop=["loud"])
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        check(corpus, tmp_path, jobs=0)
    assert counted == []
