"""Broken and odd recordings: each is heard whole at every offset, or refused in words; never partly, silently."""

import json
import pickle
import struct

import av
import numpy as np
import pytest
import soundfile
from aac_files import write_aac

from chns.cli import main
from chns.core import AudioError, ManifestError
from chns.data.audio import audio_info, channel_number, channels_differ, file_channels_differ, proven_info, read_audio
from chns.data.conversion import convert_audio
from chns.data.corpora.any_folder import prepare_folder
from chns.data.corpora.kaldi import prepare_kaldi, write_kaldi
from chns.data.corpora.lhotse import read_lhotse
from chns.data.corpora.list_formats import read_nemo, write_wespeaker
from chns.data.corpora.listed import scan_list
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards
from chns.inference.listening import array_windows, as_waveform, file_windows

RATE = 16_000


def noise(seconds=1.0, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(RATE * seconds))


def encoded(tmp_path, name, samples, rate=RATE, **settings):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **settings)
    return path


def tone(hz, seconds=2.0):
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(round(RATE * seconds)) / RATE)


def call(tmp_path, name="call.wav"):
    """A tone of 300 Hz on the left, one of 1000 Hz on the right."""
    return encoded(tmp_path, name, np.stack([tone(300), tone(1000)], axis=1))


def share_of_left(waveform):
    spectrum = np.abs(np.fft.rfft(waveform))
    last = len(spectrum) - 1
    low, high = (spectrum[round(hz / (RATE / 2) * last)] for hz in (300, 1000))
    return float(low / (low + high))


# ----- lengths


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gsm.wav", {"subtype": "GSM610"}),
        ("g721.au", {"format": "AU", "subtype": "G721_32"}),
        ("ima.wav", {"subtype": "IMA_ADPCM"}),
        ("ms.wav", {"subtype": "MS_ADPCM"}),
        ("law.wav", {"subtype": "ULAW"}),
        ("alac.caf", {"format": "CAF", "subtype": "ALAC_16"}),
        ("a.sph", {"format": "NIST"}),
        ("a.rf64", {"format": "RF64"}),
    ],
)
def test_a_rare_codec_is_heard_at_every_offset(tmp_path, name, settings):
    path = encoded(tmp_path, name, noise(2), **settings)
    whole = read_audio(path)
    assert proven_info(path).num_frames == len(whole) >= 2 * RATE
    for offset in (0.0, 0.3, 1.1, 1.9):
        crop = read_audio(path, offset_seconds=offset, duration_seconds=0.1)
        assert np.array_equal(crop, whole[round(offset * RATE) :][: len(crop)])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("riff_size", [0, 0xFFFFFFFF])
def test_a_streamed_wav_is_heard_whole(tmp_path, size, riff_size):
    path = encoded(tmp_path, "a.wav", noise())
    content = path.read_bytes()
    whole = read_audio(path)
    info = b"LIST" + struct.pack("<I", 4) + b"INFO"
    sizes = (struct.pack("<I", each) for each in (riff_size, size))
    path.write_bytes(content[:4] + next(sizes) + content[8:36] + info + b"data" + next(sizes) + content[44:])
    assert audio_info(path).num_frames == proven_info(path).num_frames == RATE
    assert np.array_equal(read_audio(path), whole)
    assert np.array_equal(read_audio(path, offset_seconds=0.5, duration_seconds=0.1), whole[RATE // 2 :][:1_600])


def test_a_wav_without_samples_stays_refused(tmp_path):
    path = encoded(tmp_path, "a.wav", noise(0))
    with pytest.raises(AudioError, match="recording must hold samples, got none"):
        proven_info(path)


def test_a_wav_whose_size_was_never_brought_up_to_date_is_refused(tmp_path):
    path = encoded(tmp_path, "a.wav", noise(2))
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", 1_000)
    path.write_bytes(content)
    with pytest.raises(
        AudioError, match=r"must state its whole length, got .*the header ends 0\.03 s in, 1\.97 s more"
    ):
        proven_info(path)


@pytest.mark.parametrize(
    "behind", [b"LIST" + struct.pack("<I", 40_000) + bytes(40_000), bytes(50_000), b"TAG" + bytes(125)]
)
def test_what_may_lie_behind_the_samples_of_a_wav_does_no_harm(tmp_path, behind):
    path = encoded(tmp_path, "a.wav", noise())
    path.write_bytes(path.read_bytes() + behind)
    assert proven_info(path).num_frames == RATE


@pytest.mark.parametrize(
    ("suffix", "settings"),
    [("ogg", {}), ("opus", {"format": "OGG", "subtype": "OPUS"}), ("flac", {}), ("mp3", {}), ("wav", {})],
)
def test_joined_files_are_heard_whole_or_refused(tmp_path, suffix, settings):
    parts = [encoded(tmp_path, f"{n}.{suffix}", noise(n, n), **settings) for n in (2, 3)]
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for read in (proven_info, read_audio):
        with pytest.raises(AudioError, match=r"recording must (state its whole length, got .*joined|be WAV)"):
            read(path)


def without_header(path):
    """An MP3 without its first frame, which says how long it is."""
    data = path.read_bytes()
    at = max(data.find(b"Xing"), data.find(b"Info"))
    at = data.find(b"\xff", at + 100)
    while data[at + 1] & 0xE0 != 0xE0:
        at = data.find(b"\xff", at + 1)
    path.write_bytes(data[at:])


def test_a_variable_mp3_without_a_header_has_its_real_length_or_is_refused(tmp_path, capfd):
    times = np.arange(20 * RATE) / RATE
    loud = 0.4 * np.sin(2 * np.pi * (100 * times + 18.75 * times**2)) * np.where(times % 2 < 1, 1, 0.01)
    quiet = 0.3 * np.random.default_rng(0).standard_normal(20 * RATE) * (times >= 2)
    settings = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.5}
    for name, samples in (("loud", loud), ("quiet", quiet)):
        without_header(encoded(tmp_path, f"{name}.mp3", samples, **settings))
    with pytest.raises(AudioError, match=r"header stands for 2\.84 s and 20\.\d+ s of frames follow"):
        proven_info(tmp_path / "loud.mp3")
    assert proven_info(tmp_path / "quiet.mp3").duration_seconds == pytest.approx(20, abs=0.3)
    assert len(read_audio(tmp_path / "quiet.mp3")) / RATE == pytest.approx(20, abs=0.3)
    capfd.readouterr()


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_good_mp3_with_tags_before_and_behind_is_kept(tmp_path, rate):
    path = encoded(tmp_path, "a.mp3", noise(3), rate)
    head = b"ID3\x04\x00\x00" + bytes([0, 0, 0x4E, 0x10]) + bytes(0x4E * 128 + 0x10)
    path.write_bytes(head + path.read_bytes() + b"TAG" + bytes(125))
    assert proven_info(path).num_frames == 3 * RATE


@pytest.mark.parametrize(("suffix", "settings"), [("flac", {}), ("mp3", {}), ("wav", {}), ("ogg", {}), ("aiff", {})])
def test_of_a_cut_file_what_is_there_is_heard_or_it_is_refused(tmp_path, suffix, settings, capfd):
    path = encoded(tmp_path, f"a.{suffix}", noise(4), **settings)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        info = proven_info(path)
    except AudioError:
        return
    whole = read_audio(path)
    assert abs(len(whole) - info.num_frames) <= 0.1 * RATE
    assert len(whole) < 3 * RATE
    end = read_audio(path, offset_seconds=info.duration_seconds - 0.3, duration_seconds=0.1)
    assert len(end) == 1_600
    capfd.readouterr()


def test_an_ogg_with_a_hole_is_refused(tmp_path):
    path = encoded(tmp_path, "a.ogg", noise(6))
    content = path.read_bytes()
    pages = [at for at in range(len(content)) if content.startswith(b"OggS", at)]
    path.write_bytes(content[: pages[-2]] + content[pages[-1] :])
    with pytest.raises(AudioError, match="Ogg pages are missing between others"):
        proven_info(path)


def test_windows_of_a_verifier_know_the_same_length(tmp_path):
    path = encoded(tmp_path, "gsm.wav", noise(2), subtype="GSM610")
    assert sum(map(len, file_windows(path, sample_rate_hz=RATE))) == proven_info(path).num_frames
    chained = encoded(tmp_path, "a.ogg", noise(2))
    chained.write_bytes(chained.read_bytes() * 2)
    with pytest.raises(AudioError, match="chained"):
        next(file_windows(chained, sample_rate_hz=RATE))


# ----- which channel


def test_a_channel_is_read_alone(tmp_path):
    path = call(tmp_path)
    assert share_of_left(read_audio(path, channel=0)) > 0.99
    assert share_of_left(read_audio(path, channel=1)) < 0.01
    assert 0.4 < share_of_left(read_audio(path)) < 0.6
    with pytest.raises(AudioError, match=r"channel must be one of the recording's 2, counted from 0, got 2 in .*call"):
        read_audio(path, channel=2)


@pytest.mark.parametrize(("name", "number"), [("left", 0), ("right", 1), ("3", 3), (2, 2), ("mix", None), (None, None)])
def test_channels_have_names(name, number):
    assert channel_number(name) == number


@pytest.mark.parametrize("name", ["middle", -1, "-1", True, 0.0, ""])
def test_what_is_no_channel_is_refused(name):
    with pytest.raises(ValueError, match="channel must be left, right, mix or a number from 0, got"):
        channel_number(name)


def test_channels_with_the_same_sound_do_not_differ(tmp_path):
    one, other, hum = noise(seed=1), noise(seed=2), 1e-4 * noise(seed=3)
    assert channels_differ(np.stack([one, other], axis=1))
    assert channels_differ(np.stack([one, -one], axis=1))
    assert not channels_differ(np.stack([one, 0.1 * one + hum], axis=1))
    assert not channels_differ(np.stack([one, hum], axis=1))
    assert not file_channels_differ(encoded(tmp_path, "mono.wav", one))
    late = np.stack([np.tile(one, 90), np.tile(one, 90)], axis=1)
    late[80 * RATE :, 1] = np.tile(other, 10)
    assert file_channels_differ(encoded(tmp_path, "late.wav", late))


def test_prepare_warns_of_different_channels_unless_one_is_chosen(tmp_path, capsys):
    call(tmp_path, "f/a/1.wav")
    encoded(tmp_path, "f/a/2.wav", noise())
    out = str(tmp_path / "m.parquet")
    main(["prepare", "folder", str(tmp_path / "f"), "--out", out])
    assert (
        "warning: 1 utterance is the mean of channels that hold different sounds, such as a/1"
        in capsys.readouterr().out
    )
    assert Manifest.read(out).channels == [None, None]
    main(["prepare", "folder", str(tmp_path / "f"), "--out", out, "--channel", "mix"])
    assert "warning" not in capsys.readouterr().out
    main(["prepare", "folder", str(tmp_path / "f"), "--out", out, "--channel", "right"])
    manifest = Manifest.read(out)
    assert manifest.channels == [1]
    assert (
        "channel must be one of the recording's, counted from 0, got 1 of only 1"
        in (tmp_path / "m.rejected.csv").read_text()
    )
    with pytest.raises(ManifestError, match="corpus must hold a recording with channel 7, got none of 2"):
        prepare_folder(tmp_path / "f").with_channel(7)


def two_channels(tmp_path):
    call(tmp_path)
    lines = [{"audio_filepath": "call.wav", "label": name, "channel_selector": n} for n, name in enumerate("ab")]
    (tmp_path / "m.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return scan_list(read_nemo(tmp_path / "m.json", root=tmp_path), root=tmp_path).manifest


def heard(manifest):
    """Whether the left channel, by the recordings alone, also after a journey to another process."""
    rows = [pickle.loads(pickle.dumps(manifest[row])) for row in range(len(manifest))]
    return {each.speaker: share_of_left(read_audio(each.path)) > 0.99 for each in rows}


def test_nemo_channels_are_kept_by_conversion_and_shards(tmp_path):
    manifest = two_channels(tmp_path / "corpus")
    assert manifest.channels == [0, 1]
    wanted = {"a": True, "b": False}
    assert heard(manifest) == wanted
    converted = convert_audio(manifest, tmp_path / "flac", format="flac").manifest
    assert heard(converted) == wanted
    assert sorted(converted.column("path")) == ["call-ch0.flac", "call-ch1.flac"]
    for format_ in ("as-is", "flac", "wav"):
        packed = pack_shards(manifest, tmp_path / f"shards-{format_}", format=format_).manifest
        assert heard(packed) == wanted
    assert manifest.recording(0).parent.is_dir()
    assert str(manifest.recording(1)).endswith("call.wav")


@pytest.mark.parametrize("chosen", [[0, 1], -1, "left", True])
def test_a_channel_selector_that_is_not_one_channel_is_refused(tmp_path, chosen):
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": "a.wav", "label": "s", "channel_selector": chosen}))
    with pytest.raises(ManifestError, match=r"channel_selector must be one channel, .* in .*m\.json:1"):
        list(read_nemo(tmp_path / "m.json", root=tmp_path))


def test_kaldi_understands_sph2pipe_without_running_it_and_gets_channels_back(tmp_path):
    encoded(tmp_path, "data/call.sph", np.stack([tone(300), tone(1000)], axis=1), format="NIST")
    (tmp_path / "data/utt2spk").write_text("a-A a\nb-B b\n")
    (tmp_path / "data/wav.scp").write_text(
        "a-A sph2pipe -f wav -p -c 1 call.sph |\nb-B /opt/kaldi/tools/sph2pipe -f wav -c 2 call.sph |\n"
    )
    manifest = prepare_kaldi(tmp_path / "data").manifest
    assert heard(manifest) == {"a": True, "b": False}
    write_kaldi(manifest, tmp_path / "out")
    assert heard(prepare_kaldi(tmp_path / "out", root=tmp_path / "data").manifest) == {"a": True, "b": False}
    with pytest.raises(ManifestError, match="utterance must be all channels of its file for WeSpeaker's raw list"):
        write_wespeaker(manifest, tmp_path / "raw.list")


@pytest.mark.parametrize(
    "command", ["sph2pipe -f wav a.sph; touch x |", "sph2pipe -f wav $(touch x) |", "sph2pipe -x a |"]
)
def test_other_commands_are_still_refused(tmp_path, command):
    (tmp_path / "utt2spk").write_text("u s\n")
    (tmp_path / "wav.scp").write_text(f"u {command}\n")
    with pytest.raises(ManifestError, match="recording must be a file, got the command"):
        prepare_kaldi(tmp_path)


@pytest.mark.parametrize("value", [-1, "left"])
def test_a_manifest_with_another_channel_is_refused(value):
    row = {"utterance": "u", "speaker": "s", "path": "a.wav", "offset_seconds": 0.0, "duration_seconds": 1.0}
    with pytest.raises((ManifestError, TypeError, ValueError), match=r"channel must be a number from 0|int"):
        Manifest.from_rows([{**row, "sample_rate_hz": RATE, "channel": value}], root=".")


# ----- nothing vanishes


def test_every_recording_is_kept_or_listed_whatever_its_suffix(tmp_path, capsys):
    kinds = {"wav": "WAV", "WAV": "WAV", "sph": "NIST", "aiff": "AIFF", "aif": "AIFF", "au": "AU", "snd": "AU"}
    kinds |= {"w64": "W64", "oga": "OGG", "caf": "CAF", "rf64": "RF64", "FLAC": "FLAC"}
    for number, (suffix, format_) in enumerate(kinds.items()):
        encoded(tmp_path, f"f/s{number}/{number}.{suffix}", noise(seed=number), format=format_)
    for name in ("a.wma", "b.AMR", "c.txt", "d"):
        (tmp_path / "f/s0" / name).write_bytes(b"x")
    main(["prepare", "folder", str(tmp_path / "f"), "--out", str(tmp_path / "m.parquet")])
    out = capsys.readouterr().out
    assert len(Manifest.read(tmp_path / "m.parquet")) == len(kinds)
    rejected = (tmp_path / "m.rejected.csv").read_text()
    assert "s0/a.wma" in rejected
    assert "format that is read, got .amr. Convert it" in rejected
    assert "passed over, no recordings by their suffix: 1 without suffix, 1 .txt" in out


@pytest.mark.parametrize(("hole", "is_heard"), [(900, True), (1_500, False), (20_000, False)])
def test_an_mp3_with_a_hole_is_heard_whole_or_refused(tmp_path, hole, is_heard):
    """As bad disks and broken downloads leave them: the decoder gives up searching for the next frame after 1,024."""
    path = encoded(tmp_path, "a.mp3", noise(4.0), format="MP3", bitrate_mode="CONSTANT")
    content = path.read_bytes()
    middle = content.find(content[:2], len(content) // 2)
    path.write_bytes(content[:middle] + bytes(hole) + content[middle:])
    if is_heard:
        assert len(read_audio(path)) == proven_info(path).num_frames == 4 * RATE
    else:
        with pytest.raises(AudioError, match=f"state its whole length, .*{hole:,} bytes between its frames are none"):
            proven_info(path)


def test_opus_in_webm_is_refused_under_any_name_with_a_way_out(tmp_path, capsys):
    """What browsers record."""
    encoded(tmp_path, "f/anna/1.wav", noise())
    path = tmp_path / "f/anna/2.webm"
    with av.open(str(path), "w", format="webm") as file:
        stream = file.add_stream("libopus", rate=48_000, layout="mono")
        samples = noise(3.0)[np.newaxis].astype(np.float32)  # a second at this rate
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        for part in (*av.AudioResampler(format="flt", layout="mono", frame_size=960).resample(frame), None):
            file.mux(stream.encode(part))
    (tmp_path / "f/anna/3.opus").write_bytes(path.read_bytes())
    with pytest.raises(AudioError, match=r"`ffmpeg -i IN OUT\.wav` writes anew"):
        audio_info(path)
    assert main(["prepare", "folder", str(tmp_path / "f"), "--out", str(tmp_path / "m.parquet")]) == 0
    assert Manifest.read(tmp_path / "m.parquet").column("utterance") == ["anna/1"]
    rejected = (tmp_path / "m.rejected.csv").read_text()
    assert "format that is read, got .webm. Convert it" in rejected
    assert "anna/3.opus" in rejected


def test_words_and_sets_are_doubted_as_speakers(tmp_path, monkeypatch):
    for word in ("bed", "cat"):
        encoded(tmp_path, f"words/{word}/0a7c2a8d_nohash_0.wav", noise(seed=len(word)))
    assert "chns prepare speech-commands" in (prepare_folder(tmp_path / "words").doubt or "")
    for part in ("train", "test"):
        encoded(tmp_path, f"sets/{part}/a.wav", noise())
    assert "do not look like people" in (prepare_folder(tmp_path / "sets").doubt or "")
    for person in ("anna", "test"):
        for number in range(3):
            encoded(tmp_path, f"people/{person}/{number}.wav", noise(seed=number))
    assert prepare_folder(tmp_path / "people").doubt is None
    monkeypatch.setattr("chns.data.corpora.any_folder._MANY_UTTERANCES", 3)
    assert "2 speakers with about 3 recordings each" in (prepare_folder(tmp_path / "people").doubt or "")
    assert prepare_folder(tmp_path / "people", speaker_pattern="(anna|test)").doubt is None


# ----- arrays of callers


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2", "<i2", ">i2"])
def test_samples_of_any_byte_order_and_layout_are_the_same(dtype):
    whole = np.round(noise() * 2**15)
    scaled = whole if dtype[1] == "i" else whole / 2**15
    samples = np.repeat(scaled, 2).astype(dtype)[::2]
    assert np.abs(as_waveform(samples) - whole / 2**15).max() < 2e-4
    both = np.asfortranarray(np.stack([samples, 0 * samples], axis=1))
    assert np.abs(as_waveform(both, 0) - whole / 2**15).max() < 2e-4
    assert not as_waveform(both, 1).any()
    (window,) = array_windows(both, RATE, wanted_rate_hz=RATE, channel=0)
    assert window.dtype == np.dtype("f4")


@pytest.mark.parametrize("dtype", [">i4", "<i4", "u1", "bool", "c8"])
def test_other_samples_are_refused(dtype):
    with pytest.raises(ValueError, match=r"samples must be int16, or floating point in \[-1, 1\], got"):
        as_waveform(np.zeros(1_000, dtype))


def test_a_channel_that_an_array_lacks_is_refused():
    with pytest.raises(AudioError, match=r"channel must be one of the recording's 1, .* got 1 in an array"):
        as_waveform(noise(), 1)


# ----- lists and headers


def test_lhotses_channel_is_heard(tmp_path):
    call(tmp_path)
    source = {"type": "file", "channels": [0, 1], "source": "call.wav"}
    recording = {"id": "call", "sources": [source], "sampling_rate": RATE, "num_samples": 2 * RATE, "duration": 2.0}
    spans = [
        {"id": name, "recording_id": "call", "start": 0.0, "duration": 2.0, "speaker": name, "channel": channel}
        for channel, name in enumerate("ab")
    ]
    for name, entries in (("recordings", [recording]), ("supervisions", spans)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    manifest = scan_list(
        read_lhotse(tmp_path / "recordings.jsonl", root=tmp_path, supervisions=tmp_path / "supervisions.jsonl"),
        root=tmp_path,
    ).manifest
    assert heard(manifest) == {"a": True, "b": False}


# ----- more than the header says


@pytest.mark.parametrize(("suffix", "settings"), [("aiff", {}), ("au", {"format": "AU"})])
def test_what_lies_behind_the_samples_of_aiff_and_au_is_not_heard(tmp_path, suffix, settings):
    path = encoded(tmp_path, f"a.{suffix}", noise(), **settings)
    whole = read_audio(path)
    path.write_bytes(path.read_bytes() + bytes(50_000))
    try:
        assert proven_info(path).num_frames == len(read_audio(path)) == len(whole)
    except AudioError as error:
        assert "recording must state its whole length" in str(error)  # noqa: PT017


def test_joined_aac_is_heard_whole_or_refused(tmp_path):
    parts = [write_aac(tmp_path / f"{n}.aac", noise(n, n).astype(np.float32)) for n in (2, 3)]
    lengths = [len(read_audio(part)) for part in parts]
    joined = tmp_path / "joined.aac"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert len(read_audio(joined)) >= sum(lengths) - 2 * 1_024


def test_check_drops_a_recording_with_more_audio_than_its_header_says(tmp_path, capsys):
    for number in (1, 2):
        encoded(tmp_path, f"f/a/{number}.wav", noise(2, number))
    out = str(tmp_path / "m.parquet")
    assert main(["prepare", "folder", str(tmp_path / "f"), "--out", out]) == 0
    path = tmp_path / "f/a/1.wav"
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", 32_000)
    path.write_bytes(content)
    capsys.readouterr()
    assert main(["check", out, "--json"]) == 1
    finding = json.loads(capsys.readouterr().out)["findings"]["misstated"]
    assert (finding["number"], finding["action"], finding["example"]) == (1, "drop", "a/1")
    assert "1.00 s more" in finding["detail"]
