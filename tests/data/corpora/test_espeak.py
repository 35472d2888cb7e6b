import sys
from pathlib import Path

import numpy as np
import pytest

from chns.core.errors import ChnsError
from chns.data.corpora import espeak
from chns.data.corpora.espeak import open_engine, require_espeak

pytest.importorskip("espeakng_loader")

SENTENCE = "The quick brown fox jumps over the lazy dog."
BREATHY = "pitch 100 140\nbreath 4 4 4 4 4 4 4 4\nflutter 8"
HIGH = "pitch 190 250\nformant 1 115 100 100"


def spoken(variant, *, text=SENTENCE, seed=0, rate=170):
    with open_engine(variant, seed=seed) as engine:
        return engine.synthesise(text, rate_words_per_minute=rate, pitch=50, pitch_range=50), engine.sample_rate_hz


def test_speech_is_finite_float32_of_a_plausible_length():
    samples, rate_hz = spoken(HIGH)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert np.abs(samples).max() <= 1
    assert 1.5 < len(samples) / rate_hz < 5


def test_engine_forgets_what_other_engines_said():
    first, _ = spoken(BREATHY)
    spoken(HIGH, text="Something else entirely, to move the engine's inner state.")
    again, _ = spoken(BREATHY)
    np.testing.assert_array_equal(first, again)


def test_variant_changes_the_voice():
    low, rate_hz = spoken("pitch 80 100")
    high, _ = spoken("pitch 190 210")
    assert pitch_hz(low, rate_hz) < 125 < 150 < pitch_hz(high, rate_hz)


def test_seed_changes_only_the_breath():
    assert not np.array_equal(spoken(BREATHY, seed=1)[0], spoken(BREATHY, seed=2)[0])
    np.testing.assert_array_equal(spoken(HIGH, seed=1)[0], spoken(HIGH, seed=2)[0])


def test_faster_speech_is_shorter():
    assert len(spoken(HIGH, rate=220)[0]) < 0.85 * len(spoken(HIGH, rate=150)[0])


def test_installed_data_stays_untouched():
    import espeakng_loader

    before = listing(Path(espeakng_loader.get_data_path()))
    spoken(HIGH)
    assert listing(Path(espeakng_loader.get_data_path())) == before


@pytest.mark.parametrize("text", ["", " ", "\0"])
def test_silent_text_is_refused(text):
    with pytest.raises(ChnsError, match=r"text must be speakable by eSpeak NG, got"):
        spoken(HIGH, text=text)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ChnsError, match=r"espeakng-loader must be installed.*pip install 'chns\[synthetic\]'"):
        require_espeak()


def test_engine_without_voice_data_says_so_and_leaves_the_next_one_working(monkeypatch, tmp_path, capfd):
    library_path, _ = espeak._installed_paths()
    with monkeypatch.context() as patched:
        patched.setattr(espeak, "_installed_paths", lambda: (library_path, tmp_path))
        with pytest.raises(ChnsError, match="eSpeak NG must start with its voice data, got status"):
            spoken(HIGH)
    assert len(spoken(HIGH)[0])


def pitch_hz(samples, rate_hz):
    """Median over voiced frames of the strongest autocorrelation lag between 60 and 300 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::512]
    frames = frames[np.mean(frames**2, axis=1) > np.mean(samples**2)] * np.hanning(1024)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)
    shortest, longest = rate_hz // 300, rate_hz // 60
    return np.median(rate_hz / (shortest + correlation[:, shortest:longest].argmax(axis=1)))


def listing(folder):
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
