"""Write a corpus anew in a format that decodes fast: the same names, mono, one sample rate.

A crop of 3 s costs 2.8 ms of a core from AAC, 0.9 ms from FLAC and 0.2 ms from WAV; conversion pays that once,
not in every epoch. From AAC of 16 kHz one core converts to WAV 1,000, to FLAC 860 and to Opus 32 times as fast as the
speech lasts (processor time; ``benchmarks/audio_formats.py``). Opus is for the disk: crops of it cost 6 ms.

Resumable: a file is written under a temporary name and renamed, so one that is there is whole, and it is left alone if
its header has the rate and length that its source asks for and it is not older than its source. Bit for bit the same
after a kill, except that Ogg Opus files carry a random serial number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from chns.core import AudioError, JobPart, ManifestError, locked_folder, mapped, require_ours, write_text
from chns.data.audio import OPUS_RATES_HZ, WRITTEN_FORMATS, AudioInfo, audio_info, proven_info, read_audio, write_audio
from chns.data.corpora.scan import Rejected
from chns.data.manifest import Manifest

FORMATS = tuple(suffix.removeprefix(".") for suffix in WRITTEN_FORMATS)

_MARK = ".chns-converted"
_MARK_TEXT = "The files of this folder were converted by chns, and are written anew when their sources change.\n"
_MAX_HOURS = 4
_FILES_PER_WORKER = 100


class Conversion(NamedTuple):
    """What came of a conversion.

    Attributes:
        manifest: The utterances that could be converted; root and paths are those of the new files.
        failures: The other files, by path.
        num_written: Files written now.
        num_kept: Files that an earlier run had written.
    """

    manifest: Manifest
    failures: list[Rejected]
    num_written: int
    num_kept: int


def convert_audio(
    manifest: Manifest,
    out: Path,
    *,
    format: str,  # noqa: A002
    sample_rate_hz: int = 16_000,
    jobs: int | None = None,
    part: JobPart | None = None,
) -> Conversion:
    """Convert all recordings of a manifest into another folder. The sources are only read.

    Args:
        manifest: Utterances; several may lie in one file, which is converted once. One that is a channel of its file
            gets a file of that channel alone, called ``NAME-chN``.
        out: Folder for the new files, new or empty or of an earlier run, whose files are kept if they are still right.
        format: ``flac`` or ``wav`` (16 bits), or ``opus``.
        sample_rate_hz: Rate of the new files.
        jobs: Processes at most; by default one a core, and none for few files.
        part: The part of the files that is to be converted; by default all.

    Returns:
        The new manifest, with the other columns unchanged, and the files that could not be converted; those of a part.

    Raises:
        ValueError: If format, rate or jobs is not one that works, or ``out`` is the folder of the sources or inside
            it.
        FileExistsError: If ``out`` holds anything and is no folder of converted files.
        ManifestError: If another process is converting into ``out``, or no file of all could be converted.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.")
    if format == "opus" and sample_rate_hz not in OPUS_RATES_HZ:
        raise ValueError(f"sample rate of Opus must be one of {OPUS_RATES_HZ} Hz, got {sample_rate_hz}.")
    _refuse_own_folder(manifest.root, out)
    _claim(out)
    sources = sorted(
        set(_sources(manifest)), key=lambda source: (source.path, -1 if source.channel is None else source.channel)
    )
    targets, failures = _targets(sources, f".{format}")
    if part is not None:
        targets, failures = dict(part.own([*targets.items()])), []
    work = [(manifest.root / source.path, out / target, source.channel) for source, target in targets.items()]
    function = partial(_convert, sample_rate_hz=sample_rate_hz)
    with (
        locked_folder(out, part=part),
        mapped(function, work, jobs=jobs, items_per_worker=_FILES_PER_WORKER) as outcomes,
    ):
        progress = tqdm(outcomes, total=len(work), desc=f"converting to {format}", unit="file", disable=None)
        results = dict(zip(targets, progress, strict=True))
    failures += [Rejected(source.path, result) for source, result in results.items() if isinstance(result, str)]
    failures.sort()
    written = {source: result for source, result in results.items() if isinstance(result, _Converted)}
    if not written and part is None:
        raise ManifestError(
            f"corpus must hold a file that can be converted, got none of {len(sources)} in {manifest.root} "
            f"(the first is {failures[0].path}: {failures[0].reason})."
        )
    num_written = sum(result.is_new for result in written.values())
    new_files = {source: (targets[source], result.info) for source, result in written.items()}
    return Conversion(_pointing_to(new_files, manifest, out), failures, num_written, len(written) - num_written)


class _Source(NamedTuple):
    """A file, or one channel of it."""

    path: str
    channel: int | None


def _sources(manifest: Manifest) -> list[_Source]:
    """That of each utterance."""
    return [_Source(*source) for source in zip(manifest.column("path"), manifest.channels, strict=True)]


class _Converted(NamedTuple):
    """A new file, or one that was there."""

    info: AudioInfo
    is_new: bool


def _refuse_own_folder(root: Path, out: Path) -> None:
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"converted files must lie outside the folder of their sources ({root}), got {out}.")


def _claim(out: Path) -> None:
    """Mark a new or empty folder as one of converted files, so that only in such a one files are ever overwritten."""
    mark = out / _MARK
    try:
        require_ours(out, ())
    except FileExistsError:
        if mark.is_file():
            return
        raise
    write_text(mark, _MARK_TEXT)


def _targets(sources: Sequence[_Source], suffix: str) -> tuple[dict[_Source, str], list[Rejected]]:
    """The new name of each file; where two would get the same, the first by name gets it."""
    targets: dict[_Source, str] = {}
    failures = []
    owners: dict[str, _Source] = {}
    for source in sources:
        ending = suffix if source.channel is None else f"-ch{source.channel}{suffix}"
        target = f"{PurePosixPath(source.path).with_suffix('')}{ending}"
        owner = owners.setdefault(target, source)
        if owner == source:
            targets[source] = target
        else:
            failures.append(
                Rejected(source.path, f"converted file must have a name of its own, {owner.path} becomes {target} too")
            )
    return targets, failures


def _convert(files: tuple[Path, Path, int | None], *, sample_rate_hz: int) -> _Converted | str:
    """Convert one file, unless that was done, or say why it cannot be; what stops the writing (a full disk) raises."""
    source, target, channel = files
    try:
        info = proven_info(source)
        if info.duration_seconds > _MAX_HOURS * 3600:
            raise AudioError(f"recording must last at most {_MAX_HOURS} hours to be converted, got {source}.")
        done = _already_converted(source, target, info, sample_rate_hz)
        if done is not None:
            return _Converted(done, is_new=False)
        waveform = read_audio(source, sample_rate_hz=sample_rate_hz, channel=channel)
    except (AudioError, OSError) as error:
        return " ".join(str(error).split())
    write_audio(target, waveform, sample_rate_hz=sample_rate_hz)
    return _Converted(audio_info(target), is_new=True)


def _already_converted(source: Path, target: Path, info: AudioInfo, sample_rate_hz: int) -> AudioInfo | None:
    if not target.exists():
        return None
    if target.samefile(source):
        raise AudioError(f"converted file must not be its source, got {target}. Choose another folder.")
    if target.stat().st_mtime < source.stat().st_mtime:
        return None
    num_frames = math.floor(info.num_frames * sample_rate_hz / info.sample_rate_hz + 0.5)
    try:
        found = audio_info(target)
    except AudioError:
        return None
    return found if found == AudioInfo(num_frames, sample_rate_hz, 1) else None


def _pointing_to(new_files: Mapping[_Source, tuple[str, AudioInfo]], manifest: Manifest, out: Path) -> Manifest:
    """The rows whose files were converted. A duration may shrink by the part of a sample that the new rate has not."""
    sources = _sources(manifest)
    table = manifest.table.filter(pa.array([source in new_files for source in sources]))
    found = [new_files[source] for source in sources if source in new_files]
    infos = [info for _, info in found]
    room = np.array([info.duration_seconds for info in infos]) - table["offset_seconds"].to_numpy()
    columns = {
        "path": pa.array([path for path, _ in found], pa.string()),
        "duration_seconds": pa.array(np.minimum(table["duration_seconds"].to_numpy(), room)),
        "sample_rate_hz": pa.array([info.sample_rate_hz for info in infos], pa.int32()),
    }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    if "channel" in table.column_names:
        table = table.drop_columns(["channel"])
    return Manifest(table, root=out, source="converted manifest")
