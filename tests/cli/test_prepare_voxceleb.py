"""VoxCeleb as downloaded, in one command: unpacked, checked, converted; also when it is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from aac_files import write_aac
from voxceleb_archives import checksums, cut, zipped

from chns.cli import main
from chns.data.audio import read_audio
from chns.data.manifest import Manifest


def download(shared_data: Path, folder: Path, *, num_speakers: int) -> Path:
    """VoxCeleb2's excerpts as its archives would hold them, with list, table and trials."""
    files = {}
    speakers = sorted(path for path in (shared_data / "voxceleb2-mini").iterdir() if path.is_dir())[:num_speakers]
    for source in (path for speaker in speakers for path in sorted(speaker.glob("*/*.flac"))):
        samples, rate = soundfile.read(source, dtype="float32")
        name = source.relative_to(shared_data / "voxceleb2-mini").with_suffix(".m4a").as_posix()
        files[f"dev/aac/{name}"] = write_aac(folder / "one.m4a", samples, rate).read_bytes()
    (folder / "one.m4a").unlink()
    parts = cut(zipped(folder / "vox2_dev_aac.zip", files), 4)
    checksums(folder / "vox2.md5", parts)
    rows = "".join(f"{speaker.name} \tn0 \tf \tdev \n" for speaker in speakers)
    (folder / "vox2_meta.csv").write_text("VoxCeleb2 ID \tVGGFace2 ID \tGender \tSet \n" + rows)
    names = [name.removeprefix("dev/aac/").replace(".m4a", ".wav") for name in files]
    (folder / "list.txt").write_text(
        f"1 {names[0]} {names[1]}\n0 {names[0]} {names[-1]}\n0 {names[0]} id99999/v/00001.wav\n"
    )
    return folder


def words(downloads: Path, work: Path, *more: object) -> list[str]:
    found = ["prepare", "voxceleb", downloads, "--unpack", work / "vox2", "--md5", downloads / "vox2.md5",
             "--meta", downloads / "vox2_meta.csv", "--trials", downloads / "list.txt", "--convert", "flac",
             "--converted", work / "flac", "--out", work / "vox2.parquet", "--json", *more]  # fmt: skip
    return [str(word) for word in found]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_when(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


def assert_one_command_does_all_and_survives_kills(shared_data, tmp_path, capsys, *, num_speakers, jobs):
    downloads = download(shared_data, tmp_path / "downloads", num_speakers=num_speakers)
    before = contents(downloads)
    count = num_speakers * 10
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    assert main(words(downloads, quiet, "--workers", jobs)) == 0
    summary = json.loads(capsys.readouterr().out)
    expected = {"speakers": num_speakers, "utterances": count, "rejected": 0, "converted": count, "kept": 0}
    assert expected.items() <= summary.items()
    assert summary["parts"] == [
        {
            "name": "VoxCeleb2 dev",
            "speakers": num_speakers,
            "utterances": count,
            "official_speakers": 5_994,
            "official_utterances": 1_092_009,
            "complete": False,
        }
    ]
    (trials,) = summary["trials"]
    assert (trials["trials"], trials["remaining"], trials["missing"]) == (3, 2, 1)
    assert (quiet / "vox2.list.missing.txt").read_text() == "id99999/v/00001.wav\n"
    assert len((quiet / "vox2.list.txt").read_text().splitlines()) == 2

    manifest = Manifest.read(quiet / "vox2.parquet")
    assert set(manifest.column("gender")) == {"f"}
    assert manifest.root == quiet / "flac"
    assert all(path.endswith(".flac") for path in manifest.column("path"))
    first = manifest[0]
    source = read_audio(quiet / "vox2" / "dev" / "aac" / Path(manifest.column("path")[0]).with_suffix(".m4a"))
    assert abs(read_audio(first.path) - source).max() < 1e-4

    command = [sys.executable, "-m", "chns", *words(downloads, killed, "--workers", jobs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for condition in (
        lambda: len(list((killed / "vox2").glob("*/*/*/*/[!.]*"))) > count // 4,
        lambda: len(list((killed / "flac").glob("*/*/[!.]*"))) > count // 4,
    ):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        killed_when(process, condition)
        assert process.returncode == -signal.SIGKILL
        assert not (killed / "vox2.parquet").exists()
    assert main(words(downloads, killed, "--workers", jobs)) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["converted"] + again["kept"] == count
    assert 0 < again["kept"] < count
    assert contents(downloads) == before
    assert contents(killed / "flac") == contents(quiet / "flac")
    assert contents(killed / "vox2") == contents(quiet / "vox2")
    for name in ("vox2.list.txt", "vox2.list.missing.txt", "vox2.rejected.csv"):
        assert (killed / name).read_bytes() == (quiet / name).read_bytes()
    continued = Manifest.read(killed / "vox2.parquet")
    for name in ("utterance", "speaker", "path", "session", "gender", "set"):
        assert continued.column(name) == manifest.column(name)
    assert continued.durations_seconds.tolist() == manifest.durations_seconds.tolist()


@pytest.mark.slow
def test_one_command_prepares_a_download_and_goes_on_after_kills(shared_data, tmp_path, capsys):
    assert_one_command_does_all_and_survives_kills(shared_data, tmp_path, capsys, num_speakers=6, jobs=1)


@pytest.mark.slow
def test_one_command_prepares_all_excerpts_in_parallel_and_goes_on_after_kills(shared_data, tmp_path, capsys):
    assert_one_command_does_all_and_survives_kills(shared_data, tmp_path, capsys, num_speakers=80, jobs=2)


def record(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)


def test_people_read_how_complete_the_corpus_and_the_lists_are(tmp_path, capsys):
    for name in ("id10270/v/00001", "id10270/v/00002", "id10271/v/00001"):
        record(tmp_path / "wav" / f"{name}.wav")
    (tmp_path / "all.txt").write_text("1 id10270/v/00001.wav id10270/v/00002.wav\n")
    (tmp_path / "some.txt").write_text("1 id10270/v/00001.wav id10270/v/00009.wav\n")
    out = tmp_path / "m.parquet"
    command = [
        "prepare",
        "voxceleb",
        tmp_path,
        "--out",
        out,
        "--trials",
        tmp_path / "all.txt",
        "--trials",
        tmp_path / "some.txt",
    ]
    assert main([str(word) for word in command]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "VoxCeleb1 test: partial: 2 of 40 speakers, 3 of 4,874 utterances",
        "all.txt: no official list of VoxCeleb1, all 1 trials can be scored",
        "some.txt: no official list of VoxCeleb1, 0 of 1 trials remain, 1 utterance is missing: see "
        f"{tmp_path / 'm.some.missing.txt'}",
    ]


def refused(capsys, *command: object) -> str:
    assert main([str(word) for word in command]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_bad_trial_list_is_refused_before_the_scan(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("hello\n")
    message = refused(
        capsys,
        "prepare",
        "voxceleb",
        tmp_path / "none",
        "--out",
        tmp_path / "m.parquet",
        "--trials",
        tmp_path / "list.txt",
    )
    assert "trial list must have lines like `1 ENROL TEST` (voxceleb), got 'hello'" in message


@pytest.mark.parametrize("more", [["--convert", "flac"], ["--converted", "x"]])
def test_half_a_conversion_is_refused(tmp_path, capsys, more):
    record(tmp_path / "a" / "1.wav")
    message = refused(capsys, "prepare", "folder", tmp_path, "--out", tmp_path / "m.parquet", *more)
    assert "--convert FORMAT and --converted DIR must be given together" in message


def test_any_corpus_can_be_converted_and_failures_are_reported(tmp_path, capsys):
    for name in ("a/1", "a/2"):
        record(tmp_path / "in" / f"{name}.flac")
    content = (tmp_path / "in" / "a" / "2.flac").read_bytes()
    (tmp_path / "in" / "a" / "2.flac").write_bytes(content[: len(content) // 2])
    command = [
        "prepare",
        "folder",
        tmp_path / "in",
        "--out",
        tmp_path / "m.parquet",
        "--convert",
        "opus",
        "--converted",
        tmp_path / "out",
        "--json",
    ]
    assert main([str(word) for word in command]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {"utterances": 1, "converted": 1, "kept": 0, "not_converted": 0, "rejected": 1}.items() <= summary.items()
    report = (tmp_path / "m.rejected.csv").read_text()
    assert report.splitlines()[1].startswith('a/2.flac,"recording must be decodable, got an error in')


def test_the_formats_of_the_command_are_those_of_the_library():
    from chns.cli.prepare_command import _FORMATS
    from chns.data.conversion import FORMATS

    assert set(_FORMATS) == set(FORMATS)
