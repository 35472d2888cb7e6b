"""Length, level, clipping and silence of recordings, and how arrays become waveforms."""

import json

import numpy as np
import pytest
import soundfile

from chns.core import AudioError
from chns.data.audio import read_audio, write_audio
from chns.inference.listening import (
    WINDOW_SECONDS,
    array_windows,
    as_waveform,
    checked_rate,
    file_windows,
    joint_quality,
    measure_quality,
)

RATE = 16_000


def tone(seconds, *, peak=0.5, rate=RATE):
    return (peak * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def measured(waveform):
    return measure_quality(waveform, sample_rate_hz=RATE)


def test_a_loud_clean_recording_has_no_warnings_and_the_level_of_its_sine():
    quality = measured(tone(3))
    assert quality.warnings == ()
    assert quality.duration_seconds == 3
    assert quality.level_dbfs == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert (quality.clipped_share, quality.silent_share, quality.is_silent) == (0, 0, False)


@pytest.mark.parametrize(
    ("waveform", "warning"),
    [
        (tone(1.5), "1.5 s of sound; less than 2 s is unreliable"),
        (np.concatenate([tone(1), np.zeros(5 * RATE, np.float32)]), "1.0 s of sound; less than 2 s is unreliable"),
        (tone(3, peak=0.002), "nearly silent, -57 dBFS"),
        (np.clip(tone(3, peak=1.5), -1, 1), "clipped, 53.8 % of the samples are at full scale"),
    ],
)
def test_each_defect_is_said_in_words_and_alone(waveform, warning):
    [said] = measured(waveform).warnings
    assert said.startswith(warning)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_silence_is_silent_whatever_its_offset(offset):
    quality = measured(np.full(2 * RATE, offset, np.float32))
    assert quality.is_silent
    assert (quality.level_dbfs, quality.sounding_seconds) == (-100, 0)
    assert json.loads(json.dumps(quality.to_json(), allow_nan=False))["warnings"]


def test_a_single_sample_can_be_measured():
    assert measured(np.ones(1, np.float32)).clipped_share == 1


def test_the_quality_of_the_parts_is_that_of_the_whole():
    parts = [tone(1, peak=1.2).clip(-1, 1), np.zeros(2 * RATE, np.float32), tone(0.5, peak=0.1)]
    joint, whole = joint_quality([measured(part) for part in parts]), measured(np.concatenate(parts))
    assert joint.to_json().keys() == whole.to_json().keys()
    for name in ("duration_seconds", "level_dbfs", "clipped_share", "silent_share"):
        assert getattr(joint, name) == pytest.approx(getattr(whole, name), abs=1e-6)


def test_real_speech_gets_few_warnings(shared_data):
    files = sorted((shared_data / "voxceleb2-mini").rglob("*.flac"))[::20]
    warned = [file for file in files if measured(read_audio(file)).warnings]
    assert len(files) == 40
    assert len(warned) <= 1


@pytest.mark.parametrize("dtype", [np.int16, np.float16, np.float32, np.float64])
def test_every_type_of_samples_becomes_the_same_waveform(dtype):
    exact = np.array([-1, -0.5, 0, 0.25], np.float64)
    samples = (exact * 2**15).astype(dtype) if dtype == np.int16 else exact.astype(dtype)
    waveform = as_waveform(samples)
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, exact)


def test_channels_are_averaged():
    np.testing.assert_allclose(as_waveform(np.array([[0.2, 0.4], [0.0, -1.0]])), [0.3, -0.5], atol=1e-7)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((1, 16_000)), r"samples must have shape .* with at most 32 channels, got \(1, 16000\)"),
        (np.zeros((5, 0)), r"samples must have shape .*, got \(5, 0\)"),
        (np.zeros((2, 2, 2)), r"samples must have shape .*, got \(2, 2, 2\)"),
        (np.float64(0.5), r"samples must have shape .*, got \(\)"),
        (np.zeros(9, np.int32), "samples must be int16, or floating point .*, got int32"),
        (np.array(["a"]), "samples must be int16, or floating point"),
        (np.zeros(9, complex), "samples must be int16, or floating point .*, got complex128"),
    ],
)
def test_what_is_not_audio_is_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        as_waveform(np.asarray(samples))


@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf, 1e300, 20_000.0])
def test_samples_far_from_full_scale_are_refused(sample):
    with pytest.raises(AudioError, match=r"samples must be finite and in \[-1, 1\], got a peak of .* in an array"):
        as_waveform(np.array([0.1, sample, 0.2]))


def test_a_float_file_with_integers_in_it_is_refused_by_name(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1, peak=9_000), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"samples must be finite and in .*, got a peak of 9000 in .*a\.wav"):
        list(file_windows(tmp_path / "a.wav", sample_rate_hz=RATE))


@pytest.mark.parametrize("rate", [0, -1, 3_999, 384_001, 16_000.5])
def test_a_rate_of_no_recording_is_refused(rate):
    with pytest.raises(ValueError, match=f"sample_rate_hz must be an integer between 4000 and 384000, got {rate}"):
        checked_rate(rate)


@pytest.mark.parametrize(("seconds", "count"), [(0, 1), (0.2, 1), (30, 1), (30.5, 2), (60, 2), (61, 3)])
def test_windows_are_equally_long_and_make_up_the_whole(tmp_path, seconds, count):
    whole = (np.random.default_rng(0).integers(-9_000, 9_000, round(seconds * RATE)) / 2**15).astype(np.float32)
    windows = list(array_windows(whole, RATE, wanted_rate_hz=RATE))
    lengths = [len(window) for window in windows]
    assert len(windows) == count
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= WINDOW_SECONDS * RATE
    np.testing.assert_array_equal(np.concatenate(windows), whole)
    if seconds:
        write_audio(tmp_path / "a.wav", whole, sample_rate_hz=RATE)
        from_file = list(file_windows(tmp_path / "a.wav", sample_rate_hz=RATE))
        assert len(from_file) == count
        assert abs(sum(map(len, from_file)) - len(whole)) <= count


def test_an_array_and_a_file_of_another_rate_are_heard_alike(tmp_path):
    rate = 44_100
    write_audio(tmp_path / "a.wav", tone(1, rate=rate), sample_rate_hz=rate)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    [from_file] = file_windows(tmp_path / "a.wav", sample_rate_hz=RATE)
    [from_array] = array_windows(samples, rate, wanted_rate_hz=RATE)
    np.testing.assert_array_equal(from_array, from_file)
