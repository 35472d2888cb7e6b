import json
import os
import sys

import numpy as np
import pytest

from chns.core import ChnsError, ManifestError
from chns.data.audio import audio_info, read_audio
from chns.data.corpora import synthetic
from chns.data.corpora import synthetic as synthetic_sentences
from chns.data.corpora import synthetic as synthetic_voices
from chns.data.corpora.synthetic import prepare_synthetic
from chns.data.manifest import Manifest

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic")
    return prepare_synthetic(out, num_speakers=12, num_utterances=6, num_families=3, jobs=2)


@pytest.fixture(scope="module")
def waveforms(corpus):
    return [read_audio(corpus[index].path) for index in range(len(corpus))]


@pytest.fixture(scope="module")
def spectra(corpus, waveforms):
    """Mean log spectrum of each speaker in 32 bands up to 3.2 kHz, level removed, shape (speakers, 32)."""
    bands = np.stack([log_bands(waveform) for waveform in waveforms])
    return np.stack([bands[corpus.speaker_labels == label].mean(axis=0) for label in range(len(corpus.speakers))])


def log_bands(waveform):
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::200] * np.hanning(400)
    power = (np.abs(np.fft.rfft(frames, 640)) ** 2)[:, :128]
    loud = power.sum(axis=1) > np.median(power.sum(axis=1))
    bands = np.log(power[loud].reshape(loud.sum(), 32, 4).sum(axis=2))
    return bands.mean(axis=0) - bands.mean()


def audio_bytes(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.flac"))}


def test_manifest_names_every_recording_in_order(corpus):
    assert len(corpus) == 72
    assert corpus.speakers == [f"f{family:03}-s{member:02}" for family in range(3) for member in range(4)]
    assert corpus[13].name == "f000-s02/01"
    assert corpus[13].path == corpus.root / "f000-s02" / "01.flac"
    assert corpus.column("family")[13] == "f000"
    assert [corpus[index].name for index in range(len(corpus))] == sorted(corpus.column("utterance"))


def test_written_manifest_equals_the_returned_one(corpus):
    read = Manifest.read(corpus.root / "manifest.parquet")
    assert read.column_names == corpus.column_names
    assert list(read) == list(corpus)


def test_recordings_are_16_khz_mono_and_as_long_as_the_manifest_says(corpus):
    for utterance in corpus:
        info = audio_info(utterance.path)
        assert (info.sample_rate_hz, info.num_channels) == (16_000, 1)
        assert info.duration_seconds == pytest.approx(utterance.duration_seconds)


def test_sentences_last_about_two_to_four_seconds(corpus):
    durations = corpus.durations_seconds
    assert durations.min() > 1.2
    assert durations.max() < 6
    assert 2.5 < np.median(durations) < 4


def test_samples_are_finite_not_clipped_and_vary_in_level(waveforms):
    levels_db = [20 * np.log10(np.sqrt(np.mean(waveform**2))) for waveform in waveforms]
    assert all(np.isfinite(waveform).all() for waveform in waveforms)
    assert max(np.abs(waveform).max() for waveform in waveforms) < 0.96
    assert -35 < min(levels_db) < max(levels_db) - 8 < -27


def test_no_two_recordings_are_alike(waveforms):
    assert len({waveform[:16_000].tobytes() for waveform in waveforms}) == len(waveforms)


def test_speakers_of_a_family_sound_more_alike_than_others(corpus, spectra):
    families = np.array([speaker[:4] for speaker in corpus.speakers])
    same_family = families[:, None] == families[None]
    distances = np.linalg.norm(spectra[:, None] - spectra[None], axis=2)
    different_speakers = ~np.eye(len(families), dtype=bool)
    assert (distances[different_speakers] > 0).all()
    assert distances[same_family & different_speakers].mean() < 0.8 * distances[~same_family].mean()


@pytest.mark.slow
def test_audio_depends_neither_on_the_number_of_processes_nor_on_earlier_speakers(tmp_path):
    settings = {"num_speakers": 6, "num_utterances": 2, "num_families": 2, "seed": 3}
    for jobs in (1, 2):
        prepare_synthetic(tmp_path / str(jobs), **settings, jobs=jobs)
    made = audio_bytes(tmp_path / "1")
    assert len(made) == 12
    assert audio_bytes(tmp_path / "2") == made
    manifests = [(tmp_path / name / "manifest.parquet").read_bytes() for name in "12"]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_seed_changes_the_audio(tmp_path):
    for seed in (0, 1):
        prepare_synthetic(tmp_path / str(seed), num_speakers=2, num_utterances=2, num_families=1, seed=seed, jobs=1)
    first, second = (audio_bytes(tmp_path / name) for name in "01")
    assert set(first.values()).isdisjoint(second.values())


@pytest.mark.slow
def test_interrupted_corpus_is_completed_and_the_rest_left_alone(tmp_path):
    settings = {"num_speakers": 3, "num_utterances": 3, "num_families": 3, "jobs": 1}
    manifest = prepare_synthetic(tmp_path, **settings)
    made = audio_bytes(tmp_path)
    (tmp_path / "manifest.parquet").unlink()
    (tmp_path / "f001-s00" / "01.flac").unlink()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}
    assert list(prepare_synthetic(tmp_path, **settings)) == list(manifest)
    assert audio_bytes(tmp_path) == made
    changed = {path.parent.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"f001-s00"}


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    settings = {"num_speakers": 2, "num_utterances": 2, "num_families": 2, "jobs": 1}
    prepare_synthetic(tmp_path, **settings)
    with pytest.raises(ManifestError, match=r"seed must be 0 like the corpus already in the folder, got 7 in .*json"):
        prepare_synthetic(tmp_path, **settings, seed=7)
    recorded = json.loads((tmp_path / "synthetic.json").read_text())
    assert recorded["family_spread"] == synthetic.FAMILY_SPREAD


def test_damaged_settings_file_is_refused(tmp_path):
    (tmp_path / "synthetic.json").write_text("{")
    with pytest.raises(ManifestError, match=r"settings file must be JSON, got .* in .*synthetic.json"):
        prepare_synthetic(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_speakers": 1}, "num_speakers must be at least 2, got 1"),
        ({"num_utterances": 1}, "num_utterances must be at least 2, got 1"),
        ({"num_families": 0}, r"num_families must be between 1 and the number of speakers \(400\), got 0"),
        ({"num_families": 401}, r"num_families must be between 1 and the number of speakers \(400\), got 401"),
        ({"family_spread": 0.0}, r"family_spread must lie in \(0, 1\], got 0"),
        ({"family_spread": float("nan")}, r"family_spread must lie in \(0, 1\], got nan"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        prepare_synthetic(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_missing_engine_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ChnsError, match="espeakng-loader must be installed"):
        prepare_synthetic(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_process_that_dies_is_an_error_not_a_hang():
    with pytest.raises(ChnsError, match="synthesis must not end its process"):
        synthetic._in_processes(os._exit, [3, 3, 3], jobs=2)


def test_error_in_a_process_reaches_the_caller():
    with pytest.raises(ValueError, match="invalid literal"):
        synthetic._in_processes(int, ["not a number"], jobs=1)


@pytest.mark.parametrize(("num_speakers", "num_families"), [(7, 3), (10, 10), (9, 1), (1200, 1001), (250, 2)])
def test_families_are_even_and_names_are_sorted_and_unique(num_speakers, num_families):
    dealt = list(synthetic._names_and_families(num_speakers, num_families))
    names = [name for name, _ in dealt]
    sizes = np.bincount([family for _, family in dealt])
    assert len(names) == len(set(names)) == num_speakers
    assert names == sorted(names)
    assert len({len(name) for name in names}) == 1
    assert len(sizes) == num_families
    assert sizes.max() - sizes.min() <= 1


def test_sentences_are_many_and_complete():
    rng = np.random.default_rng(0)
    sentences = {synthetic_sentences.random_sentence(rng) for _ in range(1000)}
    assert len(sentences) > 990
    assert not any("<" in sentence or "  " in sentence for sentence in sentences)
    assert all(sentence[-1] in ".?" for sentence in sentences)


def test_member_voices_stay_in_range_and_near_their_family():
    voices = [member(spread=0.1, number=number) for number in range(50)]
    far = [member(spread=1.0, number=number) for number in range(50)]
    for name, (low, high) in synthetic_voices._VOICE_RANGES.items():
        assert all(low <= voice[name] <= high for voice in voices + far)
        assert np.std([voice[name] for voice in voices]) < 0.15 * (high - low)


def member(*, spread, number):
    return synthetic_voices.member_voice(np.random.default_rng(1), np.random.default_rng(number), spread=spread)
