"""Each defect is found, alone, and good recordings have none."""

import importlib.util
import struct

import numpy as np
import pytest
import soxr
from made_corpus import RATE, MadeCorpus, good_corpus, voice

from chns.data import resumable
from chns.data.audio import audio_info
from chns.data.check import KINDS, Limits, check_manifest
from chns.data.check.measures import measure_utterance
from chns.data.container import why_cut
from chns.data.corpora.any_folder import prepare_speech_commands
from chns.data.corpora.kaldi import prepare_kaldi
from chns.data.corpora.voxceleb import prepare_voxceleb
from chns.data.manifest import Manifest

FORMATS = [(".wav", {}), (".flac", {}), (".ogg", {}), (".opus", {"format": "OGG", "subtype": "OPUS"}), (".mp3", {})]


def check(corpus, tmp_path, **settings):
    manifest = corpus if isinstance(corpus, Manifest) else corpus.manifest
    return check_manifest(manifest, kept=tmp_path / "kept", jobs=1, **settings)


def found(corpus, tmp_path, **settings):
    """Kind and utterance, or speaker, of every finding."""
    checked = check(corpus, tmp_path, **settings)
    names = checked.manifest.column("utterance")
    return [(f.kind, f.speaker if f.row is None else names[f.row]) for f in checked.findings]


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: round(share * len(content))])


def damage(path, place, content):
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


@pytest.mark.parametrize(("suffix", "settings"), FORMATS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_good_recordings_have_no_findings(tmp_path, suffix, settings, rate):
    corpus = MadeCorpus(tmp_path / "corpus")
    for number in range(2):
        corpus.add(f"s/{number}", voice(number, rate=rate), rate=rate, suffix=suffix, **settings)
    assert found(corpus, tmp_path) == []


def sine(seconds=2.0, peak=0.5):
    return (peak * np.sin(2 * np.pi * 300 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


DEFECTS = {
    "not_finite": np.where(np.arange(2 * RATE) == 9_000, np.nan, voice(0)),
    "out_of_scale": 9_000 * voice(0),
    "silent": np.zeros(2 * RATE),
    "too_short": voice(0, 0.4),
    "mostly_silent": np.concatenate([voice(0, 0.6), np.zeros(9 * RATE)]),
    "quiet": voice(0, level=0.002),
    "clipped": np.clip(voice(0, level=0.5), -1, 1),
    "dc_offset": voice(0) + 0.05,
    "narrow_band": soxr.resample(voice(0, rate=8_000), 8_000, RATE),
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_bad_waveform_is_found_and_nothing_else(tmp_path, kind):
    corpus = good_corpus(tmp_path / "corpus")
    corpus.add("s0/bad", DEFECTS[kind], suffix=".wav", subtype="FLOAT")
    assert found(corpus, tmp_path) == [(kind, "s0/bad")]


def test_silence_with_an_offset_is_silent(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    corpus.add("s0/bad", np.full(2 * RATE, 0.3), suffix=".wav")
    assert found(corpus, tmp_path) == [("silent", "s0/bad"), ("dc_offset", "s0/bad")]


def test_a_long_recording_is_found_by_the_limit(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    corpus.add("s1/long", voice(9, 4))
    assert found(corpus, tmp_path) == []
    assert found(corpus, tmp_path, limits=Limits(max_seconds=3)) == [("too_long", "s1/long")]


@pytest.mark.parametrize(("suffix", "settings"), FORMATS)
def test_a_cut_file_is_found(tmp_path, suffix, settings):
    corpus = good_corpus(tmp_path / "corpus")
    path = corpus.add("s0/cut", voice(7, 6), suffix=suffix, **settings)
    cut(path)
    if suffix in {".wav", ".ogg", ".opus"}:  # as `chns prepare` sees it: the header that libsndfile reports is shorter
        corpus.rows[-1]["duration_seconds"] = audio_info(path).duration_seconds
    kind = "undecodable" if suffix == ".flac" else "truncated"
    assert found(corpus, tmp_path) == [(kind, "s0/cut")]


def test_a_damaged_ogg_is_found_although_it_decodes(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    path = corpus.add("s0/damaged", voice(7, 6), suffix=".ogg")
    damage(path, path.stat().st_size // 2, bytes(8_000))
    assert found(corpus, tmp_path) == [("truncated", "s0/damaged")]


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_the_open_end_of_a_streamed_wav_is_no_cut(tmp_path, size):
    path = MadeCorpus(tmp_path).add("s/1", voice(1), suffix=".wav")
    assert path.read_bytes()[36:40] == b"data"
    damage(path, 40, struct.pack("<I", size))
    assert why_cut(path) is None


def test_how_much_of_a_wav_is_missing_is_said(tmp_path):
    path = MadeCorpus(tmp_path).add("s/1", voice(1), suffix=".wav")
    assert why_cut(path) is None
    cut(path, 0.75)
    assert why_cut(path) == "WAV header promises 2.00 s, 0.50 s missing"


@pytest.mark.parametrize(
    "content",
    [
        b"RIFF",
        b"RIFF\x00\x00\x00\x00WAVE",
        b"RIFF\x00\x00\x00\x00WAVEdata\x00\x01\x00\x00",
        b"RIFF\x00\x00\x00\x00WAVE" + 2_000 * b"junk\x00\x00\x00\x00",
        b"hello",
    ],
)
def test_a_wav_without_sense_is_left_to_the_decoder(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    assert why_cut(tmp_path / "a.wav") is None


@pytest.mark.parametrize("content", [b"OggS" + bytes(5), b"OggS" + bytes(200) + b"OggS"])
def test_an_ogg_that_ends_anywhere_is_cut(tmp_path, content):
    (tmp_path / "a.ogg").write_bytes(content + bytes(3))
    assert why_cut(tmp_path / "a.ogg") in {"Ogg stream has no last page", "Ogg stream ends within a page"}


def test_a_joined_file_is_found_although_its_beginning_decodes(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    path = corpus.add("s0/joined", voice(7, 2), suffix=".ogg")
    other = corpus.add("s0/other", voice(8, 3), suffix=".ogg")
    path.write_bytes(path.read_bytes() + other.read_bytes())
    checked = check(corpus, tmp_path)
    assert [(f.kind, corpus.rows[f.row]["utterance"]) for f in checked.findings] == [("misstated", "s0/joined")]
    assert "chained (joined), and only the first is read" in checked.findings[0].detail


def test_files_that_are_gone_or_no_audio_are_found(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    for name, content in (("text", b"hello\n" * 50), ("empty", b"")):
        (tmp_path / "corpus" / "s0" / f"{name}.wav").write_bytes(content)
        corpus.row(f"s0/{name}", f"{name}.wav")
    corpus.row("s0/gone", "gone.wav")
    assert found(corpus, tmp_path) == [("missing", "s0/gone"), ("undecodable", "s0/text"), ("undecodable", "s0/empty")]


@pytest.mark.skipif(not importlib.util.find_spec("av"), reason="extra aac is not installed")
def test_aac_can_be_checked(tmp_path):
    import av

    corpus = good_corpus(tmp_path / "corpus")
    path = tmp_path / "corpus" / "s0" / "a.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((voice(3) * 2**15).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    corpus.row("s0/a", "a.m4a")
    assert found(corpus, tmp_path) == []
    cut(path)
    assert found(corpus, tmp_path / "anew") == [("undecodable", "s0/a")]


# ----- the manifest


@pytest.mark.parametrize("stated", [1.5, 2.5])
def test_another_length_or_rate_than_stated_is_found(tmp_path, stated):
    corpus = good_corpus(tmp_path / "corpus")
    corpus.rows[0]["duration_seconds"] = stated
    corpus.rows[1]["sample_rate_hz"] = 8_000
    checked = check(corpus, tmp_path)
    assert [(f.kind, f.row, f.value) for f in checked.findings] == [
        ("wrong_duration", 0, 2.0),
        ("wrong_rate", 1, 16_000.0),
    ]


def test_a_length_that_was_rounded_is_not_wrong(tmp_path):
    corpus = good_corpus(tmp_path / "corpus")
    corpus.rows[0]["duration_seconds"] = 2.05
    assert found(corpus, tmp_path) == []


def test_only_the_parts_that_the_manifest_names_are_judged(tmp_path):
    corpus = MadeCorpus(tmp_path / "corpus")
    corpus.add("s/all", np.concatenate([voice(1, 3), np.zeros(3 * RATE), voice(2, 3)]).astype(np.float32))
    corpus.rows.clear()
    corpus.row("s/first", "all.flac", offset=0.5)
    corpus.row("s/silence", "all.flac", offset=3.5)
    corpus.row("s/last", "all.flac", offset=6.5, duration=2.5)
    corpus.row("s/over", "all.flac", offset=7.0, duration=4.0)
    corpus.row("s/behind", "all.flac", offset=9.0)
    checked = check(corpus, tmp_path)
    assert [(f.kind, f.row) for f in checked.findings] == [("undecodable", 4), ("silent", 1), ("wrong_duration", 3)]
    assert checked.findings[-1].value == pytest.approx(2.0)
    assert "offset_seconds must lie inside the recording of 9.000 s, got 9.0" in checked.findings[0].detail


# ----- long recordings


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_measures_do_not_depend_on_the_windows(tmp_path, monkeypatch, suffix):
    corpus = MadeCorpus(tmp_path)
    corpus.add("s/1", voice(1, 3.7), suffix=suffix)
    whole = measure_utterance(corpus.manifest[0], whole_file=True)
    monkeypatch.setattr(resumable, "WINDOW_SECONDS", 1)
    in_windows = measure_utterance(corpus.manifest[0], whole_file=True)
    assert in_windows.digest == whole.digest
    assert in_windows.duration_seconds == whole.duration_seconds == pytest.approx(3.7)
    for name in ("peak", "dc_offset", "level_dbfs", "silent_share", "clipped_share"):
        assert getattr(in_windows, name) == pytest.approx(getattr(whole, name), rel=1e-5, abs=1e-9)
    assert in_windows.high_band_db == pytest.approx(whole.high_band_db, abs=0.1)


def test_a_long_recording_that_is_cut_is_found_at_the_window_where_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(resumable, "WINDOW_SECONDS", 1)
    corpus = MadeCorpus(tmp_path)
    cut(corpus.add("s/1", voice(1, 6), suffix=".mp3"))
    measures = measure_utterance(corpus.manifest[0], whole_file=True)
    assert measures.problem == "truncated"
    assert 1 < measures.duration_seconds < 5


# ----- real speech


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpus", "prepare", "step"),
    [
        ("voxceleb2-mini", prepare_voxceleb, 20),
        ("speech-commands-mini", prepare_speech_commands, 60),
        ("speechocean762-train", prepare_kaldi, 60),
    ],
)
def test_real_speech_is_not_called_bad(shared_data, tmp_path, corpus, prepare, step):
    manifest = prepare(shared_data / corpus, jobs=1).manifest
    sample = manifest.take(np.arange(0, len(manifest), step))
    checked = check(sample, tmp_path, limits=Limits(min_utterances=1, min_sessions=1))
    assert not checked.needs_fixing
    assert len(checked.findings) <= 0.1 * len(sample)


def test_every_kind_of_finding_has_a_test_here():
    tested = {*DEFECTS, "missing", "undecodable", "truncated", "misstated", "too_long", "wrong_duration", "wrong_rate"}
    elsewhere = {"same_looking", "duplicate", "shared_by_speakers", "few_utterances", "few_sessions"}
    assert tested | elsewhere == set(KINDS)
