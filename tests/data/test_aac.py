"""AAC: the header's length is the decoder's, crops are slices, and files that lie or hide."""

import struct
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from aac_files import write_aac, write_surround

from chns.core import AudioError, ChnsError
from chns.data.audio import audio_info, read_audio

RATES = [8_000, 16_000, 22_050, 44_100, 48_000]
SUFFIXES = [".m4a", ".mp4", ".aac"]


def speech_like(sample_rate_hz: int, seconds: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    tone = 0.3 * np.sin(2 * np.pi * (300 + 200 * time) * time)
    return (tone + 0.02 * generator.standard_normal(len(time))).astype(np.float32)


def bytes_of(path: Path) -> bytearray:
    return bytearray(path.read_bytes())


def fails(path: Path, message: str) -> None:
    for function in (audio_info, read_audio):
        with pytest.raises(AudioError, match=f"{message}.*{path.name}"):
            function(path)


# ----- lengths


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate", RATES)
def test_the_header_has_as_many_samples_as_are_decoded(tmp_path, suffix, rate):
    for frames in (1_000, 1_024, 2_047, 2_048, 30_000, 30_719, 30_720, 30_721):
        path = write_aac(tmp_path / f"a{suffix}", speech_like(rate, 4.0)[:frames], rate)
        info = audio_info(path)
        assert info[1:] == (rate, 1)
        assert len(read_audio(path, sample_rate_hz=rate)) == info.num_frames
        if suffix != ".aac":  # the edit list counts milliseconds; a bare stream has none
            assert abs(info.num_frames - frames) <= rate / 1_000 + 1


@pytest.mark.parametrize("suffix", [".m4a", ".mp4"])
def test_the_priming_is_dropped(tmp_path, suffix):
    samples = speech_like(16_000, 2.0)
    waveform = read_audio(write_aac(tmp_path / f"a{suffix}", samples))
    assert len(waveform) == 32_000
    assert np.square(waveform - samples).sum() < 0.1 * np.square(samples).sum()


def test_without_an_edit_list_the_priming_is_in_the_length_and_in_the_samples(tmp_path):
    path = write_aac(tmp_path / "a.m4a", speech_like(16_000, 2.0), use_editlist="0")
    assert audio_info(path).num_frames == len(read_audio(path)) == 33_024


def with_edits(content: bytes, *edits: tuple[int, int, int]) -> bytes:
    """An MP4 whose header comes first, with another edit list: milliseconds, first sample and speed of each part."""
    header = bytearray(content)
    at = header.find(b"elst") - 4
    entries = b"".join(struct.pack(">IiHH", *edit, 0) for edit in edits)
    box = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    grown = len(box) - struct.unpack_from(">I", header, at)[0]
    header[at : at + len(box) - grown] = box
    for kind, before in ((b"edts", -4), (b"trak", -4), (b"moov", -4), (b"stco", 12)):
        place = header.find(kind) + before
        struct.pack_into(">I", header, place, struct.unpack_from(">I", header, place)[0] + grown)
    return bytes(header)


PRIMING = 1_024


@pytest.mark.parametrize(("first", "milliseconds"), [(0, 2_000), (8_000, 1_500), (0, 1_500), (8_000, 1_000)])
def test_what_an_edit_list_cuts_away_is_neither_counted_nor_heard(tmp_path, first, milliseconds):
    whole = write_aac(tmp_path / "whole.m4a", speech_like(16_000, 2.0), movflags="faststart")
    path = tmp_path / "cut.m4a"
    path.write_bytes(with_edits(whole.read_bytes(), (milliseconds, PRIMING + first, 1)))
    waveform = read_audio(path)
    assert audio_info(path).num_frames == len(waveform) == 16 * milliseconds
    assert np.abs(waveform - read_audio(whole)[first : first + len(waveform)]).max() < 0.01
    crop = read_audio(path, offset_seconds=0.4, duration_seconds=0.2)
    assert np.abs(crop - waveform[6_400:9_600]).max() < 0.01


@pytest.mark.parametrize(
    ("edits", "parts"),
    [
        ([(300, -1, 1), (2_000, PRIMING, 1)], "2 parts"),  # begins 0.3 s later
        ([(500, PRIMING, 1), (500, PRIMING + 16_000, 1)], "2 parts"),
        ([(2_000, -1, 1)], "1 part"),  # nothing but a pause
        ([(2_000, PRIMING, 0)], "1 part"),  # one sample, held
        ([(0, PRIMING, 1)], "1 part"),
    ],
)
def test_an_edit_list_that_rearranges_is_refused_with_a_way_out(tmp_path, edits, parts):
    path = write_aac(tmp_path / "a.m4a", speech_like(16_000, 2.0), movflags="faststart")
    path.write_bytes(with_edits(path.read_bytes(), *edits))
    fails(
        path, f"MP4 must play its sound from one place to another, got an edit list of another kind, with {parts}, in"
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_eight_channels_are_refused_before_the_decoder_crashes(tmp_path, suffix):
    path = write_surround(tmp_path / f"surround{suffix}")
    fails(path, "recording must have at most 7 channels, got 8 in")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_channels_are_averaged_and_rates_converted(tmp_path, suffix):
    left = speech_like(48_000, 1.5)
    path = write_aac(tmp_path / f"a{suffix}", np.stack([left, 0.5 * left]), 48_000)
    assert audio_info(path).num_channels == 2
    waveform = read_audio(path, sample_rate_hz=16_000)
    assert waveform.dtype == np.float32
    expected = 0.75 * speech_like(48_000, 1.5)[::3]
    if suffix == ".aac":
        waveform = waveform[round(1_024 / 3) :]
    assert abs(np.corrcoef(waveform[2_000:20_000], expected[2_000:20_000])[0, 1]) > 0.98


# ----- crops


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_crop_equals_that_part_of_the_whole(tmp_path, suffix, rate):
    path = write_aac(tmp_path / f"a{suffix}", speech_like(rate, 3.0), rate, noise_substitution=False)
    whole = read_audio(path, sample_rate_hz=rate)
    starts = [0, 1, 1_023, 1_024, 2_048, 2_049, 5_000, *np.random.default_rng(1).integers(0, 2 * rate, 10)]
    for start in starts:
        crop = read_audio(path, sample_rate_hz=rate, offset_seconds=start / rate, duration_seconds=0.5)
        assert len(crop) == round(0.5 * rate)
        assert np.array_equal(crop, whole[start : start + len(crop)])
    end = read_audio(path, sample_rate_hz=rate, offset_seconds=2.75)
    assert np.array_equal(end, whole[-len(end) :])


def test_real_speech_is_read_the_same_in_crops_and_as_a_whole(tmp_path, shared_data):
    for number, source in enumerate(sorted(shared_data.glob("voxceleb2-mini/*/*/*.flac"))[:8]):
        samples, _ = soundfile.read(source, dtype="float32")
        path = write_aac(tmp_path / f"{number}.m4a", samples)
        whole = read_audio(path)
        assert 0 <= len(whole) - len(samples) < 16
        for start in np.random.default_rng(number).integers(0, len(samples) - 8_000, 5):
            crop = read_audio(path, offset_seconds=start / 16_000, duration_seconds=0.5)
            difference = crop - whole[start : start + 8_000]
            assert np.square(difference).sum() < 1e-3 * np.square(crop).sum() + 1e-6
            assert np.abs(difference).max() < 0.02


def test_a_name_that_is_not_utf8_or_looks_like_a_protocol_is_a_file(tmp_path, monkeypatch):
    content = write_aac(tmp_path / "a.m4a", speech_like(16_000, 1.0)).read_bytes()
    monkeypatch.chdir(tmp_path)
    for name in (b"caf\xe9.m4a", b"http:a.m4a", b"concat:a.m4a|b.m4a"):
        path = Path(name.decode("utf-8", "surrogateescape"))
        path.write_bytes(content)
        assert len(read_audio(path)) == 16_000


# ----- broken and hostile files


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_not_aac_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    fails(path, "recording must hold samples, got an empty file")
    path.write_bytes(b"hello\n" * 1_000)
    fails(path, "recording must be AAC audio in (MP4|ADTS), got something else or a damaged or cut file")
    soundfile.write(path, np.zeros(16_000, np.int16), 16_000, format="WAV")
    fails(path, "recording must be AAC audio in (MP4|ADTS)")


def test_mp4_without_audio_or_with_another_codec_is_named(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10, width=32, height=32)
        file.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        file.mux(stream.encode(None))
    fails(path, "recording must hold AAC audio, got none that FFmpeg knows in")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("alac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4_096), np.int16), format="s16p", layout="mono")
        frame.sample_rate = 16_000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    fails(path, "recording must hold AAC audio, got alac in")


def test_a_cut_file_is_an_error_wherever_the_header_is(tmp_path):
    path = write_aac(tmp_path / "end.m4a", speech_like(16_000, 3.0))
    path.write_bytes(path.read_bytes()[:-2_000])
    fails(path, "recording must be AAC audio in MP4, got something else or a damaged or cut file")
    path = write_aac(tmp_path / "front.m4a", speech_like(16_000, 3.0), movflags="faststart")
    for kept in (0.9, 0.5):
        path.write_bytes(path.read_bytes()[: round(kept * path.stat().st_size)])
        assert audio_info(path).num_frames == 48_000  # a header is a claim
        with pytest.raises(
            AudioError, match=r"recording must (be decodable, got an error|hold the 48000 .*) in .*front"
        ):
            read_audio(path)
        assert len(read_audio(path, offset_seconds=0.2, duration_seconds=0.5)) == 8_000


def test_a_promise_that_ends_between_two_frames_is_an_error(tmp_path):
    path = write_aac(tmp_path / "a.m4a", speech_like(16_000, 3.0), movflags="faststart")
    content = bytes_of(path)
    at = content.find(b"stsz")
    sizes = struct.unpack_from(f">{struct.unpack_from('>I', content, at + 12)[0]}I", content, at + 16)
    path.write_bytes(content[: len(content) - sum(sizes[-20:])])
    with pytest.raises(AudioError, match=r"must hold the 48000 samples that its header promises, got \d+ in .*a\.m4a"):
        read_audio(path)


READING_ALL = """
import av, numpy
from chns.data.audio import AudioError, audio_info, read_audio
def told(function):
    try:
        result = function(path)
        print(result.num_frames if hasattr(result, "num_frames") else len(result))
    except AudioError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_table_cannot_promise_more_frames_than_the_file_has_bytes(tmp_path, memory_of):
    path = write_aac(tmp_path / "a.m4a", speech_like(16_000, 1.0), movflags="faststart")
    good = bytes_of(path)
    for table, place, values in ((b"stsz", 8, (1, 2**24)), (b"stts", 12, (2**24,))):
        content = bytearray(good)
        struct.pack_into(f">{len(values)}I", content, content.find(table) + place, *values)
        path.write_bytes(content)
        fails(path, "MP4 header must promise frames that the file can hold, got 16,777,2")
        growth = memory_of("told(audio_info); told(read_audio)", path=path, before=READING_ALL)
        assert growth.printed.count("the file can hold") == 2
        assert growth.held < 50


def test_a_header_of_many_hours_costs_no_memory(tmp_path, memory_of):
    path = write_aac(tmp_path / "a.m4a", speech_like(16_000, 1.0), movflags="faststart")
    content = bytes_of(path)
    for box, place in ((b"mdhd", 20), (b"elst", 12), (b"mvhd", 20), (b"tkhd", 24)):
        struct.pack_into(">I", content, content.find(box) + place, 2**31 - 1)
    struct.pack_into(">I", content, content.find(b"stts") + 24, 2**30)  # the last frame's; FFmpeg believes this one
    path.write_bytes(content)
    growth = memory_of("told(audio_info); told(read_audio)", path=path, before=READING_ALL)
    header, decoded = growth.printed.splitlines()
    assert int(header) <= 17_408
    assert path.name in decoded or int(decoded) <= 17_408
    assert growth.held < 50


def test_the_audio_of_an_mp4_is_not_read_to_look_at_its_header(tmp_path, memory_of):
    path = write_aac(tmp_path / "a.m4a", speech_like(16_000, 1.0), movflags="faststart")
    content = bytes_of(path)
    at = content.find(b"mdat") - 4
    hole = 2**29
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack(">I", len(content) - at + hole))
        file.truncate(len(content) + hole)
    growth = memory_of("told(audio_info)", path=path, before=READING_ALL)
    assert growth.printed == "16000"
    assert growth.held < 50


def test_an_absurdly_large_header_is_refused(tmp_path, monkeypatch):
    path = write_aac(tmp_path / "a.m4a", speech_like(16_000, 1.0))
    monkeypatch.setattr("chns.data.aac._MAX_HEADER_BYTES", 100)
    fails(path, "MP4 header must have at most 100 bytes, got")


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "dash"])
def test_fragments_are_refused_with_a_way_out(tmp_path, flags):
    path = write_aac(tmp_path / "a.mp4", speech_like(16_000, 1.0), movflags=flags)
    fails(path, "MP4 must not be fragmented or have a compressed header")
    with pytest.raises(AudioError, match="ffmpeg -i IN -c copy"):
        audio_info(path)


def test_a_change_of_rate_within_a_stream_is_an_error(tmp_path):
    path = write_aac(tmp_path / "a.aac", speech_like(16_000, 1.0))
    other = write_aac(tmp_path / "b.aac", speech_like(44_100, 1.0), 44_100)
    path.write_bytes(path.read_bytes() + other.read_bytes())
    fails(path, "rate and channels must not change within a recording, they do in")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_gives_samples_or_an_audio_error_and_never_anything_else(tmp_path, suffix, capfd):
    path = write_aac(tmp_path / f"a{suffix}", speech_like(16_000, 0.5))
    good = path.read_bytes()
    generator = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(good)
        start, end = (len(good) - 800, len(good)) if number % 2 else (0, len(good))
        for position in generator.integers(max(0, start), end, 4):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            waveform = read_audio(path, offset_seconds=0.1, duration_seconds=0.2)
        except AudioError as error:
            assert path.name in str(error)  # noqa: PT017
        else:
            assert 0 < len(waveform) <= 3_200
    assert capfd.readouterr() == ("", "")


def test_the_extra_is_named_where_pyav_is_missing(tmp_path, monkeypatch):
    path = write_aac(tmp_path / "a.m4a", speech_like(16_000, 1.0))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ChnsError, match=r"need the package av, got none\. Install it with `pip install 'chns\[aac\]'`"):
        audio_info(path)
