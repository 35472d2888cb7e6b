"""The physics of each effect: ratios, lengths, pitches, levels, places in time."""

import io
import sys

import numpy as np
import pytest
import scipy.signal
import soundfile

from chns.core import AudioError, ChnsError
from chns.data.audio import write_audio
from chns.data.augmentation.background import (
    Babble,
    Background,
    ColouredNoise,
    Layer,
    RecordingFolder,
    coloured_noise,
    mix_at_snr,
)
from chns.data.augmentation.effects import CODECS, Codec, Gain, Speed, change_speed, power_of, without_clipping
from chns.data.augmentation.reverberation import (
    ResponseFolder,
    Reverberation,
    SimulatedRooms,
    SyntheticDecay,
    reverberate,
)

RATE_HZ = 16_000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def speech_like(seconds=2.0, seed=0):
    """Noise of the band and the pauses of speech."""
    rng = np.random.default_rng(seed)
    band = scipy.signal.butter(2, [150, 5_000], "bandpass", fs=RATE_HZ, output="sos")
    noise = scipy.signal.sosfilt(band, rng.standard_normal(round(seconds * RATE_HZ)))
    syllables = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * np.arange(len(noise)) / RATE_HZ)
    return (0.1 * noise / noise.std() * syllables).astype(np.float32)


def tone(hz, seconds=1.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def loudest_hz(waveform):
    return float(np.abs(np.fft.rfft(waveform)).argmax()) * RATE_HZ / len(waveform)


def decibels(ratio):
    return 10 * np.log10(ratio)


def lag_samples(waveform, reference):
    """How much later a waveform is than its reference."""
    correlation = scipy.signal.correlate(waveform, reference, method="fft")
    return int(correlation.argmax()) - (len(reference) - 1)


def band_power(waveform, low_hz, high_hz):
    frequencies, power = scipy.signal.welch(waveform, RATE_HZ, nperseg=1_024)
    return float(power[(frequencies >= low_hz) & (frequencies <= high_hz)].sum())


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 7.5, 20.0])
def test_a_background_is_so_many_decibels_below_the_voice(snr_db, rng):
    waveform, noise = speech_like(), 7.0 * rng.standard_normal(2 * RATE_HZ).astype(np.float32)
    added = mix_at_snr(waveform, noise, snr_db) - waveform
    assert decibels(power_of(waveform) / power_of(added)) == pytest.approx(snr_db, abs=0.1)
    assert np.corrcoef(added, noise)[0, 1] > 0.999


def test_silence_has_no_ratio(rng):
    silence, noise = np.zeros(100, np.float32), rng.standard_normal(100).astype(np.float32)
    assert np.array_equal(mix_at_snr(silence, noise, 5.0), silence)
    assert np.array_equal(mix_at_snr(noise, silence, 5.0), noise)


def constant(value, name):
    return lambda num_samples, _: (np.full(num_samples, value, np.float32), name)


@pytest.mark.slow
def test_backgrounds_exclude_each_other_and_come_as_often_as_asked(rng):
    layers = [Layer("noise", constant(1, "n"), 0.5, 0, 0), Layer("babble", constant(2, "b"), 0.2, 10, 15)]
    background = Background(layers)
    words = [background(speech_like(0.01), rng)[1] for _ in range(1_000)]
    assert sum("noise 0.0 dB (n)" in w for w in words) == pytest.approx(500, abs=60)
    assert sum("babble" in w for w in words) == pytest.approx(200, abs=50)
    assert sum(w == "" for w in words) == pytest.approx(300, abs=60)
    ratios = [float(w.split()[1]) for w in words if "babble" in w]
    assert 10 <= min(ratios) < 10.5 < 14.5 < max(ratios) <= 15


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([("noise", -0.1, 0, 5)], "noise probability must be between 0 and 1, got -0.1"),
        ([("noise", 0.5, 5, 0)], "noise min_snr_db to max_snr_db must rise within -50 and 100, got 5 to 0"),
        ([("noise", 0.5, 0, float("nan"))], "max_snr_db must rise"),
        (
            [("noise", 0.7, 0, 5), ("music", 0.4, 0, 5)],
            "probabilities of noise, music must add up to at most 1, .* 1.1",
        ),
    ],
)
def test_backgrounds_that_make_no_sense_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        Background([Layer(name, constant(1, ""), *numbers) for name, *numbers in layers])


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_as_its_exponent_says(exponent, rng):
    noise = coloured_noise(20 * RATE_HZ, exponent, rng, sample_rate_hz=RATE_HZ)
    per_octave_db = -decibels(2**exponent)
    for low_hz in (250, 1_000, 3_000):
        octave = decibels(
            band_power(noise, 2 * low_hz - 50, 2 * low_hz + 50) / band_power(noise, low_hz - 50, low_hz + 50)
        )
        assert octave == pytest.approx(per_octave_db, abs=1.0)
    assert band_power(noise, 0, 20) < 0.02 * power_of(noise) * RATE_HZ


def test_coloured_noise_is_of_all_colours_and_of_any_length(rng):
    source = ColouredNoise(sample_rate_hz=RATE_HZ)
    colours = []
    for num_samples in (1_601, *[2_000] * 40):
        noise, words = source(num_samples, rng)
        assert noise.shape == (num_samples,)
        assert noise.dtype == np.float32
        colours.append(float(words.removeprefix("colour ")))
    assert min(colours) < 0.4
    assert max(colours) > 1.6


def voices_noted(calls):
    """Voices of very different levels, each noted."""

    def voices(num_samples, rng):
        calls.append(10.0 ** rng.integers(5) * rng.standard_normal(num_samples).astype(np.float32))
        return calls[-1], "voice"

    return voices


def test_babble_is_a_sum_of_equally_loud_voices_each_from_another_place_on():
    calls = []
    babble = Babble(voices_noted(calls), min_voices=4, max_voices=4, seed=0)
    waveform, words = babble(RATE_HZ, np.random.default_rng(1))
    assert words == "4 voices"
    assert len(calls) == 4
    places = set()
    for voice in calls:
        likeness = np.fft.irfft(np.fft.rfft(waveform) * np.fft.rfft(voice).conj())
        likeness /= np.linalg.norm(waveform) * np.linalg.norm(voice)
        assert likeness.max() == pytest.approx(0.5, abs=0.03)
        assert np.sort(likeness)[-2] < 0.1
        places.add(int(likeness.argmax()))
    assert len(places) == 4


def test_babble_reads_each_of_its_excerpts_once_and_whatever_it_made_before_is_the_same_for_a_seed():
    calls, few, other = [], [], []
    used = Babble(voices_noted(calls), min_voices=3, max_voices=7, seed=0)
    for number in range(400):
        used(50, np.random.default_rng(number))
    assert len(calls) == 256
    for number in range(400):
        used(60, np.random.default_rng(number))
    assert len(calls) == 512
    assert len(used._excerpts) == 256  # lengths that change do not fill the memory
    fresh = Babble(voices_noted(few), min_voices=3, max_voices=7, seed=0)
    for number in (7, 300):
        expected = fresh(50, np.random.default_rng(number))[0]
        np.testing.assert_array_equal(used(50, np.random.default_rng(number))[0], expected)
    assert len(few) < 15
    another = Babble(voices_noted(other), min_voices=3, max_voices=7, seed=1)
    assert not np.array_equal(another(50, np.random.default_rng(7))[0], fresh(50, np.random.default_rng(7))[0])


def test_babble_has_between_so_many_voices_and_silent_ones_add_nothing(rng):
    babble = Babble(constant(0, "silent"), min_voices=3, max_voices=7, seed=0)
    counts = {babble(10, rng)[1] for _ in range(200)}
    assert counts == {f"{n} voices" for n in range(3, 8)}
    assert not babble(10, rng)[0].any()


@pytest.mark.parametrize(("low", "high"), [(0, 3), (5, 4), (1, 101)])
def test_voices_are_counted_sensibly(low, high):
    with pytest.raises(ValueError, match=f"min_voices to max_voices must rise within 1 and 100, got {low} to {high}"):
        Babble(constant(0, ""), min_voices=low, max_voices=high, seed=0)


def test_a_folder_gives_parts_from_all_over_its_files_and_repeats_short_ones(tmp_path, rng):
    write_audio(
        tmp_path / "deep" / "long.wav", np.linspace(0, 0.9, 4 * RATE_HZ, dtype=np.float32), sample_rate_hz=RATE_HZ
    )
    write_audio(tmp_path / "short.flac", np.full(100, -0.5, np.float32), sample_rate_hz=RATE_HZ)
    folder = RecordingFolder(tmp_path, sample_rate_hz=RATE_HZ)
    assert len(folder) == 2
    parts = [folder(RATE_HZ, rng) for _ in range(200)]
    assert all(part.shape == (RATE_HZ,) for part, _ in parts)
    starts = [part[0] / 0.9 * 4 for part, name in parts if name == "deep/long.wav"]
    assert 60 < len(starts) < 140
    assert min(starts) < 0.2 < 2.8 < max(starts) <= 3.01
    short = [part for part, name in parts if name == "short.flac"]
    assert all(part.max() < -0.3 for part in short)


@pytest.mark.parametrize("kind", [RecordingFolder, ResponseFolder])
def test_a_folder_without_recordings_is_an_error_that_names_it(tmp_path, kind):
    (tmp_path / "README.txt").write_text("no sound")
    with pytest.raises(AudioError, match=rf"augmentation folder must hold recordings .* got none in {tmp_path}"):
        kind(tmp_path, sample_rate_hz=RATE_HZ)
    with pytest.raises(FileNotFoundError, match=r"augmentation folder must exist, got .*gone"):
        kind(tmp_path / "gone", sample_rate_hz=RATE_HZ)


def test_a_noise_file_that_cannot_be_read_is_named(tmp_path, rng):
    (tmp_path / "broken.wav").write_bytes(b"RIFF is not enough")
    with pytest.raises(AudioError, match=r"recording must be WAV, .* broken\.wav|broken\.wav"):
        RecordingFolder(tmp_path, sample_rate_hz=RATE_HZ)(100, rng)
    with pytest.raises(AudioError, match=r"broken\.wav"):
        ResponseFolder(tmp_path, sample_rate_hz=RATE_HZ)(rng)


def test_a_silent_room_response_is_named(tmp_path, rng):
    write_audio(tmp_path / "silent.wav", np.zeros(100, np.float32), sample_rate_hz=RATE_HZ)
    with pytest.raises(AudioError, match=r"room impulse response must hold a sound, got silence in .*silent\.wav"):
        ResponseFolder(tmp_path, sample_rate_hz=RATE_HZ)(rng)


def test_reverberation_keeps_length_level_and_place():
    response = np.zeros(8_000, np.float32)
    response[700], response[1_500], response[4_000] = 0.8, 0.4, -0.3
    waveform = speech_like()
    wet = reverberate(waveform, response)
    assert wet.shape == waveform.shape
    assert wet.dtype == np.float32
    assert power_of(wet) == pytest.approx(power_of(waveform), rel=1e-4)
    assert lag_samples(wet, waveform) == 0
    correlation = scipy.signal.correlate(wet, waveform, method="fft")[len(waveform) - 1 :]
    assert correlation[800] / correlation[0] == pytest.approx(0.5, abs=0.05)
    assert correlation[3_300] / correlation[0] == pytest.approx(-0.375, abs=0.1)


@pytest.mark.parametrize("num_samples", [1, 1_999, 16_000])
@pytest.mark.parametrize("length", [1, 333, 20_000])
def test_reverberation_is_a_convolution(num_samples, length, rng):
    waveform, response = (rng.standard_normal(count).astype(np.float32) for count in (num_samples, length))
    response[0] = 10
    wet = np.convolve(waveform, response)[:num_samples]
    expected = wet * np.sqrt(power_of(waveform) / power_of(wet))
    np.testing.assert_allclose(reverberate(waveform, response), expected, atol=1e-4)


def test_a_response_of_one_impulse_changes_nothing():
    waveform = speech_like()
    np.testing.assert_allclose(reverberate(waveform, np.array([0, 0, -0.3], np.float32)), -waveform, atol=1e-6)
    silence = np.zeros(50, np.float32)
    assert np.array_equal(reverberate(silence, np.ones(3, np.float32)), silence)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.5])
def test_a_synthetic_decay_falls_by_60_db_in_its_time(seconds, rng):
    source = SyntheticDecay(
        min_reverberation_seconds=seconds, max_reverberation_seconds=seconds, sample_rate_hz=RATE_HZ
    )
    response, words = source(rng)
    assert words.startswith(f"decay {seconds:.2f} s, direct ")
    assert response.argmax() == 0
    tail = response[1:]
    assert decibels(1 / np.square(tail, dtype=np.float64).sum()) == pytest.approx(float(words.split()[-2]), abs=0.6)
    early, late = (np.square(tail[int(p * len(tail)) : int((p + 0.1) * len(tail))]).mean() for p in (0.2, 0.8))
    assert decibels(early / late) == pytest.approx(36, abs=2.5)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.5, 0.2), (0.2, 4.0)])
def test_reverberation_times_are_sensible(low, high):
    settings = {"min_reverberation_seconds": low, "max_reverberation_seconds": high, "sample_rate_hz": RATE_HZ}
    with pytest.raises(ValueError, match=r"max_reverberation_seconds must rise within 0\.05 and 3"):
        SyntheticDecay(**settings)
    with pytest.raises(ValueError, match=r"max_reverberation_seconds must rise within 0\.05 and 3"):
        SimulatedRooms(num_rooms=1, seed=0, **settings)


def test_simulated_rooms_name_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    times = {"min_reverberation_seconds": 0.2, "max_reverberation_seconds": 0.3}
    with pytest.raises(ChnsError, match=r"pyroomacoustics must be installed .*chns\[rooms\]"):
        SimulatedRooms(num_rooms=1, sample_rate_hz=RATE_HZ, seed=0, **times)
    with pytest.raises(ValueError, match="num_rooms must be at least 1, got 0"):
        SimulatedRooms(num_rooms=0, sample_rate_hz=RATE_HZ, seed=0, **times)


def test_simulated_rooms_are_the_same_for_a_seed_and_ring_longer_when_asked(rng):
    pytest.importorskip("pyroomacoustics", reason="not installed")

    def rooms(seed, seconds):
        times = {"min_reverberation_seconds": seconds, "max_reverberation_seconds": seconds}
        return SimulatedRooms(num_rooms=2, sample_rate_hz=RATE_HZ, seed=seed, **times)

    def responses(source):
        return {words: response for response, words in (source(rng) for _ in range(20))}

    dry, again, other, live = (responses(rooms(*a)) for a in ((0, 0.2), (0, 0.2), (1, 0.2), (0, 0.5)))
    assert len(dry) == 2
    assert dry.keys() == again.keys()
    assert all(np.array_equal(dry[words], again[words]) for words in dry)
    assert dry.keys() != other.keys()
    assert min(map(len, live.values())) > max(map(len, dry.values()))


def test_reverberation_comes_as_often_as_asked(rng):
    source = SyntheticDecay(min_reverberation_seconds=0.1, max_reverberation_seconds=0.2, sample_rate_hz=RATE_HZ)
    effect = Reverberation(source, probability=0.25)
    waveform = speech_like(0.05)
    results = [effect(waveform, rng) for _ in range(400)]
    assert sum(words.startswith("reverb (decay ") for _, words in results) == pytest.approx(100, abs=35)
    assert all(np.array_equal(wet, waveform) == (words == "") for wet, words in results)
    with pytest.raises(ValueError, match="reverberation probability must be between 0 and 1, got 2"):
        Reverberation(source, probability=2)


@pytest.mark.parametrize("kind", CODECS)
def test_a_codec_keeps_length_place_and_most_of_the_voice(kind, rng):
    waveform = speech_like()
    heard, words = Codec(probability=1.0, kinds=[kind], sample_rate_hz=RATE_HZ)(waveform, rng)
    assert words.startswith(kind)
    assert heard.shape == waveform.shape
    assert heard.dtype == np.float32
    assert lag_samples(heard, waveform) == 0
    assert np.corrcoef(heard, waveform)[0, 1] > 0.45
    assert not np.array_equal(heard, waveform)


@pytest.mark.parametrize("kbps", [24, 32, 48, 64])
def test_mp3_is_in_place_at_every_rate(kbps):
    waveform = speech_like()
    codec = Codec(probability=1.0, kinds=["mp3"], sample_rate_hz=RATE_HZ)
    heard = next(
        h for h, words in (codec(waveform, np.random.default_rng(s)) for s in range(50)) if f" {kbps} " in words
    )
    assert lag_samples(heard, waveform) == 0


def test_the_telephone_passes_300_to_3400_hz(rng):
    white = 0.1 * np.random.default_rng(1).standard_normal(4 * RATE_HZ).astype(np.float32)
    heard, _ = Codec(probability=1.0, kinds=["telephone"], sample_rate_hz=RATE_HZ)(white, rng)

    def change_db(low_hz, high_hz):
        return decibels(band_power(heard, low_hz, high_hz) / band_power(white, low_hz, high_hz))

    assert change_db(500, 3_000) == pytest.approx(0, abs=0.5)
    assert change_db(4_100, 8_000) < -40
    assert change_db(3_700, 4_000) < -6
    assert change_db(0, 150) < -15


def test_the_telephone_is_the_butterworth_filter_both_ways_then_the_mu_law_of_libsndfile(rng):
    waveform = speech_like()[::2].copy()
    heard, _ = CODECS["telephone"][1](waveform, rng)
    band = scipy.signal.butter(4, [300, 3_400], "bandpass", fs=8_000, output="sos")
    filtered = scipy.signal.sosfiltfilt(band, waveform).astype(np.float32)
    memory = io.BytesIO()
    soundfile.write(memory, filtered, 8_000, format="WAV", subtype="ULAW")
    memory.seek(0)
    expected = soundfile.read(memory, dtype="float32")[0]
    middle = slice(300, -300)  # beside the ends, which the two fill up otherwise
    assert np.mean(heard[middle] == expected[middle]) > 0.99  # the others are beside the border of two steps
    assert np.abs(heard[middle] - expected[middle]).max() < 0.04


def test_the_telephone_keeps_the_loudest_samples(rng):
    square = np.repeat(np.tile(np.array([1, -1], np.float32), 500), 4)  # 1 kHz; the filter overshoots
    heard, _ = CODECS["telephone"][1](square, rng)
    assert 0.9 < np.abs(heard).max() <= 1


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 48_000])
@pytest.mark.parametrize("kind", CODECS)
def test_a_codec_works_at_any_rate_and_for_the_shortest_and_the_loudest_crop(kind, rate_hz, rng):
    codec = Codec(probability=1.0, kinds=[kind], sample_rate_hz=rate_hz)
    for waveform in (4 * speech_like(0.3), np.zeros(rate_hz // 5, np.float32), speech_like(0.02)):
        heard, _ = codec(waveform, rng)
        assert heard.shape == waveform.shape
        assert np.isfinite(heard).all()
        assert np.abs(heard).max() < 2


@pytest.mark.parametrize(
    ("kinds", "message"),
    [([], "codec kinds must be some of telephone, .* got none"), (["wax"], "codec kinds must be some of .* got wax")],
)
def test_codecs_that_do_not_exist_are_refused(kinds, message):
    with pytest.raises(ValueError, match=message):
        Codec(probability=1.0, kinds=kinds, sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25])
def test_speed_changes_length_and_pitch_together(factor):
    waveform = tone(1_000, 2.0)
    played = change_speed(waveform, factor)
    assert len(played) == pytest.approx(len(waveform) / factor, abs=1)
    assert loudest_hz(played[1_000:-1_000]) == pytest.approx(1_000 * factor, abs=2)
    assert power_of(played) == pytest.approx(power_of(waveform), rel=0.01)


def test_speeds_are_drawn_as_often_as_asked(rng):
    speed = Speed(probability=0.4, factors=[0.9, 1.1])
    drawn = [speed.draw(rng) for _ in range(1_000)]
    assert set(drawn) == {0.9, 1.0, 1.1}
    assert drawn.count(1.0) == pytest.approx(600, abs=60)
    assert drawn.count(0.9) == pytest.approx(200, abs=50)


@pytest.mark.parametrize(
    ("factors", "message"),
    [([], "speed factors must be at least one"), ([0.4], "speed factor must be between 0.5 and 2.0, got 0.4")],
)
def test_speeds_that_make_no_sense_are_refused(factors, message):
    with pytest.raises(ValueError, match=message):
        Speed(probability=0.5, factors=factors)


def test_gain_is_in_its_range(rng):
    gain = Gain(probability=1.0, min_gain_db=-10, max_gain_db=6)
    waveform = speech_like(0.1)
    gains = [decibels(power_of(gain(waveform, rng)[0]) / power_of(waveform)) for _ in range(200)]
    assert -10.01 <= min(gains) < -9 < 5 < max(gains) <= 6.01
    with pytest.raises(ValueError, match="min_gain_db to max_gain_db must rise within -60 and 60, got 3 to 2"):
        Gain(probability=1.0, min_gain_db=3, max_gain_db=2)


def test_what_would_clip_is_turned_down_as_a_whole():
    loud = 3 * tone(440)
    quiet = without_clipping(loud)
    assert np.abs(quiet).max() == pytest.approx(1.0)
    assert np.corrcoef(quiet, loud)[0, 1] == pytest.approx(1.0)
    assert without_clipping(tone(440)) is not None
    assert np.array_equal(without_clipping(tone(440)), tone(440))
