"""Decoding: every format, crops, lengths, and files that lie."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from chns.core import AudioError
from chns.data.audio import AudioInfo, audio_info, read_audio, write_audio
from chns.data.container import plain_wav

FORMATS = {
    "pcm8.wav": ("WAV", "PCM_U8"),
    "pcm16.wav": ("WAV", "PCM_16"),
    "pcm24.wav": ("WAV", "PCM_24"),
    "pcm32.wav": ("WAV", "PCM_32"),
    "float32.wav": ("WAV", "FLOAT"),
    "float64.wav": ("WAV", "DOUBLE"),
    "pcm16.flac": ("FLAC", "PCM_16"),
    "pcm24.flac": ("FLAC", "PCM_24"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.opus": ("OGG", "OPUS"),
    "layer3.mp3": ("MP3", "MPEG_LAYER_III"),
}
LOSSY = {"vorbis.ogg", "opus.opus", "layer3.mp3"}
RATES = [8_000, 16_000, 22_050, 44_100, 48_000]
FORMATS_AND_RATES = [
    (name, rate) for name in FORMATS for rate in RATES if name != "opus.opus" or rate in {8_000, 16_000, 48_000}
]
FORMATS_AND_CHANNELS = [
    (name, channels) for name in FORMATS for channels in (1, 2, 6) if name != "layer3.mp3" or channels < 3
]


def tones(sample_rate_hz: int, seconds: float = 1.5) -> np.ndarray:
    """Rising tone and a second one, below 2 kHz, so that every rate holds it."""
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    return (0.3 * np.sin(2 * np.pi * (300 + 200 * time) * time) + 0.2 * np.sin(2 * np.pi * 1250 * time)).astype("f4")


def speech_like(sample_rate_hz: int, seconds: float) -> np.ndarray:
    noise = 0.05 * np.random.default_rng(0).standard_normal(round(seconds * sample_rate_hz))
    return tones(sample_rate_hz, seconds) + noise.astype(np.float32)


def saved(path: Path, samples: np.ndarray, sample_rate_hz: int) -> Path:
    container, subtype = FORMATS[path.name]
    soundfile.write(path, samples, sample_rate_hz, format=container, subtype=subtype)
    return path


def assert_sounds_like(waveform: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal up to quantisation, or for a lossy format 90 % of the energy at the same place."""
    waveform, expected = waveform[1_000:-1_000], expected[1_000:-1_000]
    if name in LOSSY:
        assert np.square(waveform - expected).sum() < 0.1 * np.square(expected).sum()
    else:
        assert np.abs(waveform - expected).max() < (0.02 if name == "pcm8.wav" else 1e-3)


def wav_bytes(data: bytes, *, channels=1, rate=16_000, bits=16, code=1, claimed=None) -> bytes:
    """A WAV file whose header says what the caller wants."""
    block = channels * bits // 8
    layout = struct.pack("<IHHIIHH", 16, code, channels, rate, rate * block % 2**32, block % 2**16, bits)
    size = len(data) if claimed is None else claimed
    return (
        b"RIFF"
        + struct.pack("<I", (36 + size) % 2**32)
        + b"WAVEfmt "
        + layout
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def with_total_samples(flac: bytes, total: int) -> bytes:
    """Set the 36-bit count of STREAMINFO."""
    damaged = bytearray(flac)
    damaged[21] = damaged[21] & 0xF0 | total >> 32
    damaged[22:26] = struct.pack(">I", total % 2**32)
    return bytes(damaged)


# ----- formats, rates, channels


@pytest.mark.parametrize(("name", "channels"), FORMATS_AND_CHANNELS)
def test_every_format_reads_as_the_mean_of_its_channels(tmp_path, name, channels):
    left = tones(16_000)
    several = left[:, None] * np.linspace(0.5, 1.0, channels, dtype=np.float32)
    path = saved(tmp_path / name, several, 16_000)
    assert audio_info(path) == AudioInfo(24_000, 16_000, channels)
    waveform = read_audio(path)
    assert waveform.dtype == np.float32
    assert waveform.shape == (24_000,)
    assert_sounds_like(waveform, several.mean(axis=1), name)


@pytest.mark.parametrize(("name", "rate"), FORMATS_AND_RATES)
def test_every_rate_becomes_the_wanted_one(tmp_path, name, rate):
    waveform = read_audio(saved(tmp_path / name, tones(rate), rate), sample_rate_hz=16_000)
    assert waveform.shape == (24_000,)
    assert_sounds_like(waveform, tones(16_000), name)


def test_the_duration_is_frames_over_rate():
    assert AudioInfo(24_000, 16_000, 2).duration_seconds == 1.5


def test_a_float_file_may_exceed_one(tmp_path):
    path = saved(tmp_path / "float32.wav", np.array([0.5, 3.0, -2.0], np.float32), 16_000)
    assert read_audio(path).tolist() == [0.5, 3.0, -2.0]


def test_suffixes_do_not_matter(tmp_path):
    soundfile.write(tmp_path / "a.flac", tones(16_000), 16_000, format="WAV")
    assert len(read_audio(tmp_path / "a.flac")) == 24_000


def test_a_name_that_is_not_utf8_can_be_written_and_read(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9") / "a.wav"
    write_audio(path, tones(16_000), sample_rate_hz=16_000)
    assert len(read_audio(path)) == audio_info(path).num_frames == 24_000


# ----- crops and lengths


@pytest.mark.parametrize(("name", "rate"), FORMATS_AND_RATES)
def test_a_crop_equals_that_part_of_the_whole(tmp_path, name, rate):
    path = saved(tmp_path / name, speech_like(rate, 2.0), rate)
    whole = read_audio(path, sample_rate_hz=rate)
    tolerance = {"opus.opus": 0.01, "layer3.mp3": 1e-6}.get(name, 0.0)
    for start in np.random.default_rng(1).integers(0, rate, 10):
        crop = read_audio(path, sample_rate_hz=rate, offset_seconds=start / rate, duration_seconds=0.5)
        assert len(crop) == round(0.5 * rate)
        assert np.abs(crop - whole[start : start + len(crop)]).max() <= tolerance


@pytest.mark.parametrize("rate", [*RATES, 11_025, 96_000])
@pytest.mark.parametrize("wanted", [8_000, 16_000, 44_100])
def test_a_crop_inside_the_file_has_exactly_the_length_asked_for(tmp_path, rate, wanted):
    seconds = 1.25
    path = saved(tmp_path / "pcm16.wav", np.zeros(round(seconds * rate), np.int16), rate)
    length_seconds = round(seconds * rate) / rate
    generator = np.random.default_rng(0)
    for duration in [1 / wanted, 0.1, 1 / 3, 1.0, *generator.uniform(0.01, 1.2, 8)]:
        for offset in [0.0, generator.uniform(0, length_seconds - duration), length_seconds - duration]:
            crop = read_audio(path, sample_rate_hz=wanted, offset_seconds=offset, duration_seconds=duration)
            assert len(crop) == round(duration * wanted)


@pytest.mark.parametrize("rate", [*RATES, 11_025, 96_000])
def test_a_whole_file_has_its_length_rounded_to_the_nearest_sample(tmp_path, rate):
    for frames in (rate, rate + 1, rate + 2, rate + 3, 12_345):
        path = saved(tmp_path / "pcm16.wav", np.zeros(frames, np.int16), rate)
        assert len(read_audio(path, sample_rate_hz=16_000)) == int(frames * 16_000 / rate + 0.5)


def test_a_file_that_ends_sooner_gives_what_there_is(tmp_path):
    path = saved(tmp_path / "pcm16.wav", tones(16_000), 16_000)
    crop = read_audio(path, offset_seconds=1.0, duration_seconds=1.0)
    assert np.array_equal(crop, read_audio(path)[16_000:])


def test_a_crop_is_sought_once_and_not_again_where_it_ends(tmp_path, monkeypatch):
    path = saved(tmp_path / "pcm16.flac", speech_like(16_000, 2.0), 16_000)
    expected = read_audio(path)[8_000:16_000]
    sought, seek = [], soundfile.SoundFile.seek
    monkeypatch.setattr(soundfile.SoundFile, "seek", lambda file, *place: sought.append(place) or seek(file, *place))
    assert np.array_equal(read_audio(path, offset_seconds=0.5, duration_seconds=0.5), expected)
    assert sought == [(8_000,)]


@pytest.mark.parametrize(
    "chunk",
    [
        b"",
        b"LIST" + struct.pack("<I", 5) + b"INFO1\0",
        b"LIST" + struct.pack("<I", 9_000) + b"INFO".ljust(9_000),
        *(b"LIST" + struct.pack("<I", length) + b"INFO".ljust(length) for length in range(4_034, 4_050, 2)),
    ],
    ids=[
        "none",
        "odd",
        "longer than what is read at first",
        *(f"up to byte {44 + 8 + n}" for n in range(4_034, 4_050, 2)),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_plain_wav_gives_what_libsndfile_gives_without_it(tmp_path, monkeypatch, channels, chunk):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (8_000, channels), np.int16)
    samples[100:102] = [[-(2**15)], [2**15 - 1]]
    content = wav_bytes(samples.astype("<i2").tobytes(), channels=channels).replace(b"data", chunk + b"data", 1)
    (tmp_path / "a.wav").write_bytes(content + b"tail" + bytes(4))
    expected = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)[0]
    monkeypatch.delattr("chns.data.audio._sound_file")
    for offset, length in ((0, 8_000), (99, 2_000), (7_000, 1_000)):
        part = {"offset_seconds": offset / 16_000, "duration_seconds": length / 16_000}
        wanted = expected[offset : offset + length]
        assert np.array_equal(read_audio(tmp_path / "a.wav", **part), wanted.mean(axis=1))
        last = read_audio(tmp_path / "a.wav", channel=channels - 1, **part)
        assert np.array_equal(last, wanted[:, -1])
        assert last.dtype == np.float32


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-2_000],
        lambda content: content.replace(b"data\0\x7d\0\0", b"data\0\0\0\0", 1),
        lambda content: content.replace(b"RIFF", b"RIFX", 1),
        lambda content: content.replace(b"\x10\0\0\0\x01\0", b"\x10\0\0\0\x06\0", 1),
    ],
    ids=["cut", "length left open", "another order of bytes", "A-law"],
)
def test_a_wav_that_is_not_plain_is_left_to_libsndfile(tmp_path, damage):
    content = wav_bytes((2**13 * tones(16_000, 1.0)).astype("<i2").tobytes())
    (tmp_path / "a.wav").write_bytes(content)
    with (tmp_path / "a.wav").open("rb") as file:
        assert plain_wav(file) is not None
    (tmp_path / "a.wav").write_bytes(damage(content))
    with (tmp_path / "a.wav").open("rb") as file:
        assert plain_wav(file) is None


def test_a_resampled_crop_agrees_with_the_resampled_whole(tmp_path):
    path = saved(tmp_path / "float32.wav", tones(48_000), 48_000)
    crop = read_audio(path, offset_seconds=0.5, duration_seconds=0.5)
    assert np.abs(crop - read_audio(path)[8_000:16_000])[500:-500].max() < 1e-4


def test_a_file_of_several_blocks_reads_like_one_of_one_block(tmp_path, monkeypatch):
    path = saved(tmp_path / "pcm16.flac", np.stack([speech_like(16_000, 2.0)] * 2, axis=1), 16_000)
    whole = read_audio(path)
    monkeypatch.setattr("chns.data.audio._BLOCK_SAMPLES", 3_000)
    assert np.array_equal(read_audio(path), whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate_hz": 0}, "sample_rate_hz must be positive, got 0"),
        ({"offset_seconds": -0.1}, "offset_seconds must be a number from 0, got -0.1"),
        ({"offset_seconds": float("nan")}, "offset_seconds must be a number from 0, got nan"),
        ({"offset_seconds": float("inf")}, "offset_seconds must be a number from 0, got inf"),
        ({"duration_seconds": 0.0}, "duration_seconds must be a number of at least one sample, got 0.0"),
        ({"duration_seconds": 1e-5}, "duration_seconds must be a number of at least one sample, got 1e-05"),
        ({"duration_seconds": float("nan")}, "duration_seconds must be a number of at least one sample, got nan"),
        ({"duration_seconds": float("inf")}, "duration_seconds must be a number of at least one sample, got inf"),
    ],
)
def test_a_setting_out_of_range_is_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        read_audio(tmp_path / "not-even-there.wav", **settings)


@pytest.mark.parametrize("offset_seconds", [1.5, 100.0])
def test_an_offset_beyond_the_end_is_an_error(tmp_path, offset_seconds):
    path = saved(tmp_path / "pcm16.wav", tones(16_000), 16_000)
    with pytest.raises(
        AudioError, match=rf"offset_seconds must lie inside .* 1\.500 s, got {offset_seconds} in .*pcm16"
    ):
        read_audio(path, offset_seconds=offset_seconds)


# ----- files that are broken or lie

SECOND = (tones(16_000, 1.0) * 2**15).astype("<i2").tobytes()


def fails(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(AudioError, match=f"{message}.*{path.name}"):
        read_audio(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "recording must hold samples, got an empty file"),
        (b"hello\n" * 100, "recording must be WAV, FLAC, Ogg, Opus or MP3 audio"),
        (b"\0" * 10_000, "recording must be WAV"),
        (wav_bytes(SECOND)[:30], "recording must be WAV"),
        (wav_bytes(b""), "recording must hold samples, got none"),
        (wav_bytes(SECOND, rate=0), "recording must be WAV"),
        (wav_bytes(SECOND, rate=1), "sample rate must be between 4000 and 384000 Hz, got 1 in"),
        (wav_bytes(SECOND, rate=2**31 - 1), "sample rate must be between 4000 and 384000 Hz, got 2147483647 in"),
        (wav_bytes(SECOND, rate=2**32 - 1), "recording must be WAV"),
        (wav_bytes(SECOND, channels=0), "recording must be WAV"),
        (wav_bytes(SECOND, channels=2_000), "recording must be WAV"),
        (wav_bytes(struct.pack("<3f", 0, float("nan"), 0), code=3, bits=32), "samples must be finite numbers"),
        (wav_bytes(struct.pack("<2f", float("inf"), 0), code=3, bits=32), "samples must be finite numbers"),
        (wav_bytes(struct.pack("<d", 1e300), code=3, bits=64), "samples must be finite numbers"),
        (wav_bytes(struct.pack("<4f", 3e38, 3e38, 1, 1), code=3, bits=32, channels=2), "samples must be finite"),
        (
            wav_bytes(struct.pack("<2f", float("inf"), -float("inf")), code=3, bits=32, channels=2),
            "samples must be finite",
        ),
    ],
)
def test_a_file_that_is_no_recording_is_named(tmp_path, content, message):
    fails(tmp_path / "a.wav", content, message)


def test_nan_is_found_after_resampling_too(tmp_path):
    samples = np.zeros(8_000, np.float32)
    samples[-1] = np.nan
    path = saved(tmp_path / "float32.wav", samples, 8_000)
    with pytest.raises(AudioError, match=r"samples must be finite numbers, got NaN or infinity in .*float32"):
        read_audio(path)


def test_a_recording_too_short_for_one_sample_at_the_wanted_rate_is_an_error(tmp_path):
    path = saved(tmp_path / "pcm16.wav", np.ones(1, np.int16), 48_000)
    with pytest.raises(AudioError, match=r"recording must hold samples at 0\.0 s, got none in .*pcm16"):
        read_audio(path, sample_rate_hz=16_000)


def test_what_is_no_file_is_not_found(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    for path in (tmp_path / "none.wav", tmp_path, tmp_path / "pipe.wav", tmp_path / "loop.wav", tmp_path / "a\0.wav"):
        with pytest.raises(FileNotFoundError, match="recording must be a file, got"):
            read_audio(path)
        with pytest.raises(FileNotFoundError, match="recording must be a file, got"):
            audio_info(path)


def test_a_file_without_permission_is_named(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    path = saved(folder / "pcm16.wav", tones(16_000), 16_000)
    path.chmod(0)
    root = os.geteuid() == 0
    if root:  # who may read everything, so be someone else for a moment
        os.seteuid(65_534)
    try:
        with pytest.raises(AudioError, match=r"recording must be readable, got .*pcm16\.wav \(Permission denied\)"):
            read_audio(path)
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(AudioError, match=r"recording must be readable, got .*a\.wav \(Permission denied\)"):
        audio_info(tmp_path / "a.wav")


def test_a_name_that_means_headerless_audio_is_refused(tmp_path):
    (tmp_path / "a.raw").write_bytes(SECOND)
    with pytest.raises(AudioError, match=r"recording must be WAV.*a\.raw"):
        read_audio(tmp_path / "a.raw")


def test_wav_that_promises_more_gives_what_there_is(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes(SECOND, claimed=2**32 - 16))
    assert audio_info(tmp_path / "a.wav").num_frames == len(read_audio(tmp_path / "a.wav")) == 16_000


def test_a_file_cut_off_in_the_middle_gives_less_or_an_error(tmp_path):
    for name in FORMATS:
        path = saved(tmp_path / name, speech_like(16_000, 3.0), 16_000)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        if path.suffix == ".flac":
            with pytest.raises(AudioError, match=f"recording must be decodable, got an error in .*{name}"):
                read_audio(path)
        else:
            assert 0 < len(read_audio(path)) < 40_000


def test_flac_of_absurd_length_is_refused(tmp_path):
    path = saved(tmp_path / "pcm16.flac", tones(16_000), 16_000)
    content = with_total_samples(path.read_bytes(), 2**36 - 1)
    fails(path, content, "header must state a length of at most 100 hours, got")


def test_memory_follows_the_samples_not_the_promise(tmp_path, memory_of):
    path = saved(tmp_path / "pcm16.flac", tones(16_000), 16_000)
    path.write_bytes(with_total_samples(path.read_bytes(), 90 * 3600 * 16_000))
    assert audio_info(path).duration_seconds == 90 * 3600
    with pytest.raises(AudioError, match="recording must be decodable, got an error in"):
        read_audio(path)
    # A block of 2**26 samples is asked for, and only what is decoded into it is held.
    growth = memory_of(READING_TOO_MUCH, path=path, before="from chns.data.audio import AudioError, read_audio")
    assert growth.printed == "0 AudioError"
    assert growth.held < 50
    assert growth.asked_for < 600
    assert len(read_audio(path, offset_seconds=0.5, duration_seconds=0.5)) == 8_000


READING_TOO_MUCH = """
try:
    print(len(read_audio(path, duration_seconds=80 * 3600.0)))
except AudioError as error:
    print("0", type(error).__name__)
"""


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("error")
def test_a_damaged_file_gives_samples_or_an_audio_error_and_never_anything_else(tmp_path, name, capfd):
    path = saved(tmp_path / name, speech_like(16_000, 0.5), 16_000)
    good = path.read_bytes()
    generator = np.random.default_rng(0)
    for number in range(40):
        damaged = bytearray(good)
        end = len(good) if number % 2 else min(len(good), 120)  # half of the damage hits the header
        for position in generator.integers(0, end, 4):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            waveform = read_audio(path, offset_seconds=0.1, duration_seconds=0.2)
        except AudioError as error:
            assert path.name in str(error)  # noqa: PT017
        else:
            assert 0 < len(waveform) <= 3_200
    capfd.readouterr()  # the MP3 decoder complains on standard error


# ----- writing


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_written_audio_reads_back(tmp_path, suffix):
    path = tmp_path / "made" / f"a{suffix}"
    write_audio(path, tones(16_000), sample_rate_hz=16_000)
    assert np.abs(read_audio(path) - tones(16_000)).max() <= 2**-15
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_written_flac_has_the_short_blocks_that_are_read_fast(tmp_path):
    write_audio(tmp_path / "a.flac", tones(16_000), sample_rate_hz=16_000)
    assert int.from_bytes((tmp_path / "a.flac").read_bytes()[8:10]) == 1_152


def test_written_audio_is_clipped_not_wrapped(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([2.0, -2.0, 0.0], np.float32), sample_rate_hz=16_000)
    assert read_audio(tmp_path / "a.wav").tolist() == [1 - 2**-15, -1.0, 0.0]


def test_written_opus_reads_back(tmp_path):
    write_audio(tmp_path / "a.opus", tones(16_000), sample_rate_hz=16_000)
    assert audio_info(tmp_path / "a.opus") == AudioInfo(24_000, 16_000, 1)
    assert_sounds_like(read_audio(tmp_path / "a.opus"), tones(16_000), "opus.opus")


def test_opus_cannot_be_written_at_every_rate(tmp_path):
    with pytest.raises(ValueError, match=r"sample rate of Opus must be one of .*48000.* Hz, got 22050"):
        write_audio(tmp_path / "a.opus", tones(22_050), sample_rate_hz=22_050)
    assert not list(tmp_path.iterdir())


def test_another_suffix_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"name of written audio must end in \.wav, \.flac or \.opus, got .*a\.mp3"):
        write_audio(tmp_path / "a.mp3", tones(16_000), sample_rate_hz=16_000)
    assert not list(tmp_path.iterdir())


# ----- real recordings


@pytest.mark.slow
def test_real_recordings_of_each_shared_corpus_read_with_the_length_of_their_header(shared_data):
    for pattern in ("voxceleb2-mini/*/*/*.flac", "speech-commands-mini/bed/*.opus", "speechocean762-train/*/*/*.opus"):
        for path in sorted(shared_data.glob(pattern))[:20]:
            info = audio_info(path)
            waveform = read_audio(path, sample_rate_hz=info.sample_rate_hz)
            assert len(waveform) == info.num_frames
            assert 0.001 < np.abs(waveform).max() <= 1.1
