"""Conditions of a sweep against arithmetic on the samples, and their scores against a loop over the trials."""

import numpy as np
import pytest
import torch

from chns.data.audio import read_audio, write_audio
from chns.data.manifest import Manifest
from chns.evaluation.conditions import noise_in_words, sweep_conditions, sweep_rates
from chns.evaluation.embedder import Embedder
from chns.evaluation.metrics import equal_error_rate
from chns.evaluation.verification import score_conditions, score_trials


def conditions(*axes, noise_folder=None):
    return sweep_conditions(axes, sample_rate_hz=16_000, noise_folder=noise_folder)


@pytest.fixture
def voice(rng):
    return (0.1 * rng.normal(size=32_000)).astype(np.float32)


def test_a_part_is_cut_where_the_name_says_and_a_short_utterance_stays_whole(voice):
    half, one, four = conditions("duration=0.5,1,4")
    part = one(voice, "anna/0")
    assert len(part) == 16_000
    places = [start for start in range(16_001) if voice[start] == part[0]]
    assert any(np.array_equal(voice[start : start + 16_000], part) for start in places)
    assert np.array_equal(one(voice, "anna/0"), part)
    assert not np.array_equal(one(voice, "ben/0"), part)
    assert len(half(voice, "anna/0")) == 8_000
    assert np.array_equal(four(voice, "anna/0"), voice)


def test_noise_has_the_wanted_ratio_and_is_the_same_at_all_ratios(voice):
    loud, soft = conditions("snr=0,20")
    noises = [one(voice, "anna/0") - voice for one in (loud, soft)]
    for noise, ratio_db in zip(noises, (0, 20), strict=True):
        measured = 10 * np.log10(np.mean(voice.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))
        assert measured == pytest.approx(ratio_db, abs=1e-3)
    assert np.corrcoef(noises)[0, 1] == pytest.approx(1, abs=1e-4)
    assert not np.allclose(loud(voice, "ben/0") - voice, noises[0])


def test_noise_comes_from_the_named_recordings(voice, tmp_path):
    tone = np.sin(np.arange(16_000) * 2 * np.pi * 1000 / 16_000).astype(np.float32) / 2
    write_audio(tmp_path / "noises" / "tone.wav", tone, sample_rate_hz=16_000)
    (noisy,) = conditions("snr=10", noise_folder=tmp_path / "noises")
    spectrum = np.abs(np.fft.rfft(noisy(voice, "anna/0") - voice))
    assert np.argmax(spectrum) == pytest.approx(2_000, abs=2)  # bins of half a hertz
    assert noise_in_words(tmp_path / "noises").startswith("a part of a recording of noises")


@pytest.mark.parametrize("codec", ["telephone", "gsm", "mp3", "opus"])
def test_a_line_changes_what_is_heard_but_not_its_length(voice, codec):
    (line,) = conditions(f"codec={codec}")
    heard = line(voice, "anna/0")
    assert heard.shape == voice.shape
    assert np.array_equal(line(voice, "anna/0"), heard)
    assert not np.allclose(heard, voice, atol=0.01)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["speed=1"], "--sweep must be given like duration=1,2 snr=20,10 codec=opus, got 'speed=1'"),
        (["duration"], "got 'duration'"),
        (["duration=0"], "duration must be a number from 0.1 to 180, got '0'"),
        (["duration=1,nan"], "duration must be a number from 0.1 to 180, got 'nan'"),
        (["snr=1_0"], "snr must be a number from -50 to 100, got '1_0'"),
        (["codec=amr"], "codec must be one of telephone, gsm, mp3, opus, got 'amr'"),
        (["snr=1,2", "snr=2"], "--sweep must name each condition once, got snr=2 twice"),
    ],
)
def test_other_words_are_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        conditions(*axes)


def test_noise_without_a_ratio_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--noise must come with snr=\.\.\., got"):
        conditions("codec=opus", noise_folder=tmp_path)


class Envelope(torch.nn.Module):
    """Energy and sum of a waveform's first samples: a model that hears every change."""

    sample_rate_hz = 16_000
    features = type("Features", (), {"frame_samples": 400})

    def forward(self, waveforms, lengths=None):
        rows = [w[:n] for w, n in zip(waveforms, lengths.tolist(), strict=True)]
        return torch.stack([torch.stack([w.abs().mean(), w.std(), w[:4000].mean() + 0.01, w.max()]) for w in rows])


def test_only_the_test_side_of_the_trials_is_changed(hum_manifest):
    manifest = Manifest.read(hum_manifest)
    enrolment, test = np.array([0, 1, 5, 7]), np.array([1, 0, 6, 22])
    swept = conditions("duration=0.5", "snr=5")
    embedder = Embedder(model=Envelope())
    scores = score_conditions(embedder, manifest, enrolment, test, swept)
    assert np.allclose(scores[0], score_trials(embedder, manifest, enrolment, test), atol=1e-6)

    def embedded(row, change=None):
        utterance = manifest[int(row)]
        waveform = read_audio(utterance.path, sample_rate_hz=16_000)
        waveform = torch.from_numpy(waveform if change is None else change(waveform, utterance.name))
        return Envelope()(waveform[None], torch.tensor([len(waveform)]))[0].double().numpy()

    for row, change in enumerate((None, *swept)):
        pairs = [(embedded(one), embedded(other, change)) for one, other in zip(enrolment, test, strict=True)]
        naive = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
        assert scores[row] == pytest.approx(naive, abs=1e-5)


def test_rates_are_those_of_each_conditions_scores_and_differences_are_paired(rng):
    one, other = rng.integers(12, size=(2, 900))
    other[:300] = one[:300]
    is_target = one == other
    clean = rng.normal(size=900) + 2.5 * is_target
    scores = np.stack((clean, clean - 0.8 * is_target, clean))
    swept = conditions("duration=1", "codec=opus")
    options = {"noise": "none", "test_seconds": [0.5, 1.0, 3.0], "num_resamples": 100}
    found = sweep_rates(scores, is_target, (one, other), swept, **options)
    recorded, short, coded = found.conditions
    assert (recorded.name, short.name, coded.name) == ("as recorded", "duration 1 s", "codec opus")
    for row, condition in enumerate(found.conditions):
        assert condition.rates["eer"].estimate == pytest.approx(equal_error_rate(scores[row], is_target))
    assert short.difference["eer"].low > 0
    assert (coded.difference["eer"].low, coded.difference["eer"].high) == (0, 0)  # the same scores on the same draws
    assert (short.unchanged, coded.unchanged) == (2, 0)
    lines = str(found).splitlines()
    assert lines[0].startswith("sweep: 3 test utterances changed, the enrolment as recorded")
    assert lines[3].endswith("2 shorter and whole")
    assert "noise:" not in str(found)
