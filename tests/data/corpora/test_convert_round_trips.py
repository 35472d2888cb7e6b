"""Out to the format of another tool and in again: nothing is lost."""

import json
import sys
from pathlib import Path

import lhotse
import numpy as np
import pytest
import soundfile
import torch

from chns.core import ChnsError, ManifestError
from chns.data.audio import write_audio
from chns.data.corpora.any_folder import prepare_speech_commands
from chns.data.corpora.kaldi import prepare_kaldi, write_kaldi
from chns.data.corpora.lhotse import read_lhotse, write_lhotse
from chns.data.corpora.list_formats import read_csv, read_wespeaker, write_csv, write_wespeaker
from chns.data.corpora.listed import scan_list
from chns.data.corpora.voxceleb import prepare_voxceleb
from chns.data.dataset import CropRequest, SpeakerCrops, WholeUtterances
from chns.data.manifest import Manifest

RATE_HZ = 8_000


def kaldi(manifest: Manifest, out: Path) -> Manifest:
    write_kaldi(manifest, out)
    return prepare_kaldi(out, root=manifest.root, min_duration_seconds=0).manifest


def cuts(manifest: Manifest, out: Path) -> Manifest:
    write_lhotse(manifest, out)
    return listed(read_lhotse(out / "cuts.jsonl.gz", root=manifest.root), manifest)


def recordings_and_supervisions(manifest: Manifest, out: Path) -> Manifest:
    write_lhotse(manifest, out)
    names = {"source": out / "recordings.jsonl.gz", "supervisions": out / "supervisions.jsonl.gz"}
    return listed(read_lhotse(**names, root=manifest.root), manifest)


def wespeaker(manifest: Manifest, out: Path) -> Manifest:
    write_wespeaker(manifest, out)
    return listed(read_wespeaker(out, root=manifest.root), manifest)


def csv(manifest: Manifest, out: Path) -> Manifest:
    write_csv(manifest, out)
    return listed(read_csv(out, root=manifest.root), manifest)


def listed(candidates, manifest: Manifest) -> Manifest:
    return scan_list(candidates, root=manifest.root, min_duration_seconds=0).manifest


WITH_PARTS = [kaldi, cuts, recordings_and_supervisions, csv]


def content(manifest: Manifest) -> list[tuple]:
    further = [manifest.column(name) for name in manifest.column_names[6:]]
    rows = [(*each, *(values[row] for values in further)) for row, each in enumerate(manifest)]
    return [tuple(manifest.column_names), *sorted(rows)]


def row(name: str, path: str, offset: float, duration: float, **columns: str | None) -> dict[str, object]:
    return {
        "utterance": name,
        "speaker": name[0],
        "path": path,
        "offset_seconds": offset,
        "duration_seconds": duration,
        "sample_rate_hz": RATE_HZ,
        **columns,
    }


@pytest.fixture
def root(tmp_path):
    """Recordings of 1.2345 s that rise from -0.5 to 0.5, so that a sample tells where it is from."""
    for name in ("a/1", "a/2", "b/with space", "b/ü"):
        write_audio(tmp_path / "audio" / f"{name}.flac", np.linspace(-0.5, 0.5, 9_876), sample_rate_hz=RATE_HZ)
    return tmp_path / "audio"


@pytest.fixture
def wholes(root):
    seconds = 9_876 / RATE_HZ
    rows = [
        row("b1", "b/with space.flac", 0.0, seconds, session="b/x", gender="f", note="two words"),
        row("a1", "a/1.flac", 0.0, seconds, session="a/x", gender="m", note=None),
        row("bü", "b/ü.flac", 0.0, seconds, session=None, gender=None, note='"quoted", with a comma'),
    ]
    return Manifest.from_rows(rows, root=root)


@pytest.fixture
def parts(root):
    rng = np.random.default_rng(0)
    starts, lengths = rng.uniform(0, 0.6, 50), rng.uniform(0.1, 0.6, 50)
    rows = [
        row(f"{'ab'[n % 2]}{n:02d}", f"a/{1 + n % 2}.flac", start, length, session=f"s{n % 3}")
        for n, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))
    ]
    rows.append(row("c", "b/ü.flac", 0.0, 9_876 / RATE_HZ, session=None))
    return Manifest.from_rows(rows, root=root)


@pytest.mark.parametrize("trip", [*WITH_PARTS, wespeaker], ids=lambda trip: trip.__name__)
def test_whole_recordings_come_back_to_the_last_digit(wholes, tmp_path, trip):
    assert content(trip(wholes, tmp_path / "out")) == content(wholes)


@pytest.mark.parametrize("trip", WITH_PARTS, ids=lambda trip: trip.__name__)
def test_parts_come_back_to_the_last_digit(parts, tmp_path, trip):
    assert content(trip(parts, tmp_path / "out")) == content(parts)


@pytest.fixture(scope="module")
def shared_corpora(shared_data):
    return [
        prepare_voxceleb(shared_data / "voxceleb2-mini").manifest.take(np.arange(0, 800, 2)),
        prepare_speech_commands(shared_data / "speech-commands-mini").manifest.take(np.arange(0, 5_000, 20)),
        prepare_kaldi(shared_data / "speechocean762-train").manifest.take(np.arange(0, 2_500, 10)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("trip", [*WITH_PARTS, wespeaker], ids=lambda trip: trip.__name__)
def test_the_shared_corpora_come_back(shared_corpora, tmp_path, trip):
    for number, manifest in enumerate(shared_corpora):
        back, expected = content(trip(manifest, tmp_path / str(number))), content(manifest)
        if trip is kaldi:  # which needs the speaker before a name whose order is not the speaker's
            back, expected = map(without_speakers, (back, expected))
        assert back == expected


def without_speakers(rows):
    return [rows[0], *sorted((row[0].removeprefix(f"{row[1]}-"), *row[1:]) for row in rows[1:])]


def test_a_crop_and_an_embedded_utterance_are_of_the_segment_only(root, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "wav.scp").write_text("r a/1.flac\n")
    (data / "segments").write_text("u1 r 0.25 0.75\nu2 r 1.0 -1\n")
    (data / "utt2spk").write_text("u1 a\nu2 b\n")
    manifest = prepare_kaldi(data, root=root, min_duration_seconds=0).manifest
    ramp = torch.linspace(-0.5, 0.5, 9_876)
    whole = WholeUtterances(manifest, max_seconds=60.0, sample_rate_hz=RATE_HZ, min_samples=10)
    torch.testing.assert_close(whole[0], ramp[2_000:6_000], atol=1e-4, rtol=0)
    torch.testing.assert_close(whole[1], ramp[8_000:], atol=1e-4, rtol=0)
    crops = SpeakerCrops(manifest, crop_seconds=0.1, sample_rate_hz=RATE_HZ)
    for seed in range(50):
        crop, _ = crops[CropRequest(0, (seed,))]
        assert ramp[2_000] - 1e-4 <= crop.min()
        assert crop.max() <= ramp[5_999] + 1e-4


def test_kaldi_needs_no_segments_for_whole_recordings(wholes, tmp_path):
    write_kaldi(wholes, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "spk2utt", "utt2gender", "utt2note", "utt2session", "utt2spk", "wav.scp"
    ]  # fmt: skip
    assert (tmp_path / "out" / "spk2utt").read_text() == "a a1\nb b1 bü\n"


def test_kaldi_counts_segments_in_plain_decimals(root, tmp_path):
    manifest = Manifest.from_rows([row("a", "a/1.flac", 1e-05, 0.1 + 0.2)], root=root)
    write_kaldi(manifest, tmp_path / "out")
    assert (tmp_path / "out" / "segments").read_text() == "a a/1.flac 0.00001 0.30001000000000004\n"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"utterance": "a 1"}, "utterance must hold no white space for Kaldi, got 'a 1'"),
        ({"speaker": "a b"}, "speaker must hold no white space for Kaldi, got 'a b'"),
        ({"path": "b/with space.flac"}, "path of a file with parts must hold no white space for Kaldi"),
        ({"odd name": "x"}, "column must be named by letters, digits and _, got 'odd name'"),
    ],
)
def test_what_kaldi_cannot_express_is_refused(root, tmp_path, changed, message):
    manifest = Manifest.from_rows([{**row("a", "a/1.flac", 0.5, 0.5), **changed}], root=root)
    with pytest.raises(ManifestError, match=message):
        write_kaldi(manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_kaldi_would_run_a_path_that_ends_in_a_bar(root, tmp_path):
    (root / "a" / "1.flac").rename(root / "a" / "1 |")
    manifest = Manifest.from_rows([row("a", "a/1 |", 0.0, 1.0)], root=root)
    with pytest.raises(ManifestError, match=r"path must not end in white space or a bar for Kaldi, got '.*/1 \|'"):
        write_kaldi(manifest, tmp_path / "out")


def test_wespeaker_refuses_parts_and_says_what_to_do(parts, tmp_path):
    with pytest.raises(
        ManifestError, match=r"must be a whole file for .*, got 50 parts, the first is a00 .*kaldi or lhotse"
    ):
        write_wespeaker(parts, tmp_path / "out")


def test_wespeaker_keeps_its_keys(root, tmp_path):
    manifest = Manifest.from_rows([row("a", "a/1.flac", 0.0, 9_876 / RATE_HZ, spk="x")], root=root)
    with pytest.raises(ManifestError, match="column must not be called key, spk, wav, got 'spk'"):
        write_wespeaker(manifest, tmp_path / "out")


def test_lhotse_loads_the_audio_of_what_was_written(parts, tmp_path):
    write_lhotse(parts, tmp_path / "out")
    recordings = lhotse.load_manifest(tmp_path / "out" / "recordings.jsonl.gz")
    supervisions = lhotse.load_manifest(tmp_path / "out" / "supervisions.jsonl.gz")
    lhotse.qa.validate_recordings_and_supervisions(recordings, supervisions)
    found = lhotse.load_manifest(tmp_path / "out" / "cuts.jsonl.gz")
    whole = WholeUtterances(parts, max_seconds=60.0, sample_rate_hz=RATE_HZ, min_samples=10)
    for cut in found:
        ours = whole[parts.column("utterance").index(cut.id)].numpy()
        theirs = cut.load_audio()[0]
        assert abs(len(ours) - len(theirs)) <= 1
        length = min(len(ours), len(theirs))
        np.testing.assert_allclose(ours[:length], theirs[:length], atol=2.0 / 9_876)


def test_all_channels_of_a_recording_come_back(root, tmp_path):
    soundfile.write(root / "stereo.wav", np.zeros((8_000, 2), np.int16), RATE_HZ)
    manifest = Manifest.from_rows([row("a", "stereo.wav", 0.0, 1.0), row("b", "stereo.wav", 0.5, 0.25)], root=root)
    assert content(cuts(manifest, tmp_path / "c")) == content(manifest)
    assert content(recordings_and_supervisions(manifest, tmp_path / "r")) == content(manifest)


@pytest.mark.parametrize("write", [write_kaldi, write_lhotse])
def test_a_folder_that_holds_something_is_left_alone(wholes, tmp_path, write):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match=r"folder to write must be new, empty or of an earlier run, got .*out"):
        write(wholes, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "precious"


@pytest.mark.parametrize("write", [write_kaldi, write_lhotse, write_wespeaker])
def test_a_recording_that_changed_is_noticed_and_nothing_is_written(wholes, root, tmp_path, write):
    write_audio(root / "a" / "1.flac", np.zeros(4_000), sample_rate_hz=RATE_HZ)
    with pytest.raises(ManifestError, match=r"must lie within its recording of 0\.500 s, .* in .*a/1\.flac\. Prepare"):
        write(wholes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_extra_is_named_where_lhotse_is_missing(wholes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(ChnsError, match=r"lhotse must be installed, .*pip install 'chns\[lhotse\]'"):
        write_lhotse(wholes, tmp_path / "out")


def test_written_paths_are_absolute_whatever_the_root(wholes, root, tmp_path, monkeypatch):
    monkeypatch.chdir(root.parent)
    relative = Manifest.from_rows([row("a", "a/1.flac", 0.0, 9_876 / RATE_HZ)], root=Path("audio"))
    write_wespeaker(relative, tmp_path / "out")
    assert json.loads((tmp_path / "out").read_text())["wav"] == str(root / "a" / "1.flac")
