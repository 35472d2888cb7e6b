"""Headers of every container that tell another length than there is: all is heard, or the recording is refused."""

import io
import re
import struct
import time
import zlib

import numpy as np
import pytest
import soundfile

from chns.core import AudioError
from chns.data.audio import proven_info, read_audio
from chns.data.flac_frames import flac_end, flac_info

RATE = 16_000
SECONDS = 3
REFUSED = r"must state its whole length, got .*the header ends 1\.0\d s in, (2\.0\d|1\.9\d) s more follow.*ffmpeg"


@pytest.fixture(scope="module")
def noise():
    return 0.2 * np.random.default_rng(0).uniform(-1, 1, SECONDS * RATE)


def changed(noise, file_format, *, at, number, form, **settings):
    """A recording of 3 s with a number in the place ``at`` bytes behind a name, or from the start."""
    file = io.BytesIO()
    soundfile.write(file, noise, RATE, format=file_format, **settings)
    content = bytearray(file.getvalue())
    name, offset = at
    struct.pack_into(form, content, content.find(name) + offset, number)
    return bytes(content)


SECOND = 2 * RATE
TOO_SHORT = {
    "aiff": ("AIFF", (b"SSND", 4), SECOND, ">I"),
    "au": ("AU", (b".snd", 8), SECOND, ">I"),
    "caf": ("CAF", (b"data", 4), SECOND + 4, ">q"),
    "rf64": ("RF64", (b"ds64", 16), SECOND, "<Q"),
    "wav": ("WAV", (b"data", 4), SECOND, "<I"),
}


@pytest.mark.parametrize("suffix", TOO_SHORT)
def test_a_header_that_ends_before_the_samples_do_is_refused(suffix, noise, tmp_path):
    file_format, at, number, form = TOO_SHORT[suffix]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(changed(noise, file_format, at=at, number=number, form=form))
    for read in (proven_info, read_audio):
        with pytest.raises(AudioError, match=REFUSED):
            read(path)


@pytest.mark.parametrize("size", [0, SECOND, 2**32 - 1])
def test_a_big_endian_wav_is_as_one_of_the_other_order(size, noise, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(changed(noise, "WAV", at=(b"data", 4), number=size, form=">I", endian="BIG"))
    if size == SECOND:
        with pytest.raises(AudioError, match=REFUSED):
            proven_info(path)
    else:
        assert proven_info(path).num_frames == len(read_audio(path)) == SECONDS * RATE


@pytest.mark.parametrize(
    ("file_format", "at", "form"),
    [
        ("AIFF", (b"COMM", 10), ">I"),
        ("AIFF", (b"SSND", 4), ">I"),
        ("AU", (b".snd", 8), ">I"),
        ("W64", (b"data", 16), "<Q"),
        ("RF64", (b"ds64", 16), "<Q"),
    ],
)
def test_a_length_that_is_too_large_or_unknown_does_no_harm(file_format, at, form, noise, tmp_path):
    largest = 2 ** (8 * struct.calcsize(form) - 1) - 1 if form[1] == "Q" else 2**32 - 1
    path = tmp_path / f"a.{file_format.lower()}"
    for number in (20 * RATE, largest):
        path.write_bytes(changed(noise, file_format, at=at, number=number, form=form))
        assert proven_info(path).num_frames == len(read_audio(path)) == SECONDS * RATE


# ----- FLAC


def flac(noise, num_frames, **settings):
    content = changed(noise, "FLAC", at=(b"fLaC", 0), number=b"fLaC", form="4s", **settings)
    bits = int.from_bytes(content[18:26], "big") >> 36 << 36
    return content[:18] + (bits + num_frames).to_bytes(8, "big") + content[26:]


ID3 = b"ID3\x04\0\0\0\0\x01\x02" + bytes(130)
TAG = b"TAG" + bytes(125)


@pytest.mark.parametrize("before", [b"", ID3])
@pytest.mark.parametrize("behind", [b"", TAG])
@pytest.mark.parametrize("samples", [SECONDS * RATE, 4_096 * 5, 4_096 * 5 + 1, 100])
def test_a_flac_that_was_written_as_a_stream_is_heard_whole(before, behind, samples, noise, tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(before + flac(noise[:samples], 0) + behind)
    whole = (noise[:samples] * 2**15).round() / 2**15
    assert proven_info(path).num_frames == samples
    np.testing.assert_allclose(read_audio(path), whole, atol=2**-14)
    crop = read_audio(path, offset_seconds=0.005, duration_seconds=0.001)
    np.testing.assert_allclose(crop, whole[80:96], atol=2**-14)


@pytest.mark.parametrize("stated", [RATE, SECONDS * RATE - 3_000])
def test_a_flac_with_more_than_it_says_is_refused(stated, noise, tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(flac(noise, stated))
    with pytest.raises(AudioError, match=r"must state its whole length, got .*more follow"):
        proven_info(path)


@pytest.mark.parametrize("behind", [b"", TAG, b"\xff\xf8" + bytes(200), b"APETAGEX" + bytes(99)])
def test_a_flac_that_tells_the_truth_is_kept_whatever_lies_around_it(behind, noise, tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(ID3 + flac(noise, SECONDS * RATE) + behind)
    assert proven_info(path).num_frames == SECONDS * RATE


def test_tags_with_the_name_of_the_format_are_no_second_recording(noise, tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(ID3[:-4] + b"fLaC" + flac(noise, SECONDS * RATE))
    assert proven_info(path).num_frames == SECONDS * RATE


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 12_345, 44_100, 96_000])
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_the_last_frame_tells_the_length_of_any_flac(channels, rate, subtype, noise):
    for samples in (1, 300, 40_000):
        file = io.BytesIO()
        waveform = np.stack([noise[:samples]] * channels, axis=1)
        soundfile.write(file, waveform, rate, format="FLAC", subtype=subtype)
        info = flac_info(file)
        assert flac_end(file, info._replace(num_frames=0)) == samples == info.num_frames
        assert info.sample_rate_hz == rate


def test_a_tail_that_looks_like_many_frames_costs_no_time(noise, tmp_path):
    frame = next(match[0] for match in re.finditer(rb"\xff\xf8.{14}", flac(noise, 0), re.DOTALL))
    path = tmp_path / "a.flac"
    path.write_bytes(flac(noise, 0) + frame * 8_000)
    started = time.process_time()
    with pytest.raises(AudioError):
        proven_info(path)
    assert time.process_time() - started < 5


# ----- Ogg


def with_last_time(content, time):
    """The last page with another granule position, and its checksum put right."""
    at = content.rfind(b"OggS")
    page = bytearray(content[at:])
    page[6:14], page[22:26] = struct.pack("<q", time), bytes(4)
    page[22:26] = struct.pack("<I", ogg_checksum(page))
    return content[:at] + bytes(page)


def ogg_checksum(page):
    """CRC-32 without reflection and inversions: that of zlib on mirrored bytes."""
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in page)
    rest = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{rest:032b}"[::-1], 2)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("time", [RATE // 2, -1])
def test_an_ogg_whose_last_page_lies_about_its_time_is_refused(subtype, time, noise, tmp_path):
    file = io.BytesIO()
    soundfile.write(file, noise, RATE, format="OGG", subtype=subtype)
    path = tmp_path / "a.ogg"
    path.write_bytes(file.getvalue())
    assert proven_info(path).num_frames == SECONDS * RATE
    path.write_bytes(with_last_time(file.getvalue(), time))
    with pytest.raises(AudioError, match="an Ogg page tells an earlier time than those before"):
        proven_info(path)
