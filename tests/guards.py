"""Take out what guards users, one line at a time, and see that a test fails: what `make guards` does.

    python tests/guards.py [PART ...]

Each of `GUARDS` is a part (as issues and changelog count them), a module, a line of it, what stands there without the
guard, and the tests that must fail then. All is done in a copy, in `build/guards`. Prints a line for each, and exits
with 1 if a change went unnoticed or a line is not there any more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build" / "guards"
HOSTILE = "tests/hostile/test_"
MODELS, FILES, SERVERS, TEXT, LOST, SURVIVES, HEARD, LISTS, LENGTHS = (
    f"{HOSTILE}{name}.py"
    for name in (
        "stranger_models", "stranger_files", "stranger_servers", "stranger_text", "nothing_lost", "training_survives",
        "recordings", "lists", "lengths",
    )
)  # fmt: skip
COLLECT, RUNS, AAC, CORE, DELETION = (
    f"tests/{name}.py"
    for name in (
        "report/test_collect",
        "training/test_runs",
        "data/test_aac",
        "core/test_files",
        "store/test_store_deletion",
    )
)


class Guard(NamedTuple):
    """A line that guards something, and the test that says so."""

    part: str
    module: str
    line: str
    without: str
    tests: str


GUARDS = [
    Guard(
        "code of a model",
        "core/factory.py",
        "if name in ours or (",
        'if name.startswith("chns.") or name in ours or (',
        f"{MODELS} -k strangers_model",
    ),
    Guard(
        "code of a run",
        "core/factory.py",
        "if name in ours or (",
        'if name.startswith("chns.") or name in ours or (',
        f"{MODELS} -k finished_run",
    ),
    Guard("trust in chns", "core/factory.py", "if entry.partition", "if not entry.partition", f"{MODELS} -k export"),
    Guard(
        "borrowed code", "core/factory.py", "if home not in trusted and", "if False and", f"{MODELS} -k only_imports"
    ),
    Guard(
        "an open door",
        "inference/decision_rule.py",
        "threshold <= _OF_STRANGERS:",
        "False:",
        f"{MODELS} -k lets_everybody",
    ),
    Guard(
        "publishing an open door",
        "inference/publish.py",
        "    if warnings:",
        "    if False:",
        f"{MODELS} -k lets_everybody",
    ),
    Guard("YAML", "core/files.py", "if total > _MOST_VALUES:", "if False:", f"{FILES} -k counted"),
    Guard(
        "depth of YAML",
        "core/files.py",
        "if len(opened) > _DEEPEST:",
        "if False:",
        f"{FILES} -k 'hostile_yaml and depth'",
    ),
    Guard(
        "Parquet",
        "data/manifest_file.py",
        "    if unfolded > most:",
        "    if False:",
        f"{FILES} -k 'small_parquet and nothing'",
    ),
    Guard(
        "quotes of values",
        "core/errors.py",
        "return repr(value) if cut <= 0 else",
        "return repr(value) if True else",
        f"{FILES} -k whole_value",
    ),
    Guard(
        "logs of runs", "training/folder.py", "if line == _MOST_LOG_LINES:", "if False:", f"{FILES} -k log_without_end"
    ),
    Guard(
        "servers",
        "data/storage/ranges.py",
        "threading.Timer(seconds, self._cut)",
        "threading.Timer(10**6, self._cut)",
        f"{SERVERS} -k given_up",
    ),
    Guard(
        "text on the screen", "core/errors.py", "one if one.isprintable() else", "one if True else", f"{TEXT} -k screen"
    ),
    Guard(
        "formulas", "core/errors.py", "if re.match(FORMULA, text) else text", "if False else text", f"{TEXT} -k formula"
    ),
    Guard("numbers", "core/files.py", 'if not text.isascii() or "_" in text:', "if False:", f"{TEXT} -k ascii_digits"),
    Guard("the user's folders", "core/files.py", "    if foreign:", "    if False:", f"{LOST} -k comes_while"),
    Guard(
        "inputs",
        "cli/__init__.py",
        "require_files_apart(chosen.command, arguments)",
        "pass",
        f"{LOST} -k 'output_is_an_input and trials'",
    ),
    Guard(
        "broken numbers",
        "training/step.py",
        "first = ~judged.isfinite() & (self._step < 0)",
        "first = judged.isnan() & False",
        f"{SURVIVES} -k where_it_breaks",
    ),
    Guard(
        "broken weights",
        "bundle/bundle.py",
        'require_finite(weights, "of the encoder")',
        "pass",
        f"{SURVIVES} -k never_written",
    ),
    Guard(
        "one training a folder",
        "training/run.py",
        "held.enter_context(locked_folder(folder))",
        "None",
        f"{SURVIVES} -k another_training",
    ),
    Guard(
        "torchrun",
        "core/distributed.py",
        'if "TORCHELASTIC_RUN_ID" not in os.environ:',
        "if True:",
        f"{SURVIVES} -k torchruns",
    ),
    Guard(
        "trainings of a comparison",
        "comparison/runs.py",
        "if ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGTERM) or",
        "if",
        f"{SURVIVES} -k end_with_it",
    ),
    Guard(
        "settings of a failed start",
        "training/run.py",
        "run.differences(settings) if run.is_begun else {}",
        "run.differences(settings)",
        f"{SURVIVES} -k until_there_is",
    ),
    Guard(
        "one manifest, three names",
        "training/folder.py",
        "os.path.realpath(value) if _is_path",
        "value if _is_path",
        f"{SURVIVES} -k three_names",
    ),
    Guard("longer runs", "training/run.py", "    if longer(changed):", "    if False:", f"{SURVIVES} -k made_longer"),
    Guard(
        "a full disk",
        "data/audio.py",
        "_require_whole(temporary, path, num_frames=len(waveform))",
        "pass",
        f"{LOST} -k 'full_disk and opus'",
    ),
    Guard(
        "what killed runs left",
        "core/files.py",
        "    if folder in _tidied:",
        "    if True:",
        f"{LOST} -k killed_process_left",
    ),
    Guard("modes of a bundle", "core/files.py", "    written.chmod(mode & ~_umask())", "    pass", f"{LOST} -k umask"),
    Guard(
        "mode of voiceprints",
        "store/content.py",
        "atomic_path(path, mode=0o600)",
        "atomic_path(path)",
        f"{LOST} -k for_their_owner",
    ),
    Guard(
        "metrics written at once",
        "bundle/bundle.py",
        "    with FileLock(folder / _LOCK):",
        "    if True:",
        f"{LOST} -k concurrent_updates",
    ),
    Guard(
        "rows of an encrypted store",
        "store/content.py",
        '_as_bytes(list(of_person)), self._bytes(owner, "lookup")) != seal:',
        '_as_bytes(list(of_person)), self._bytes(owner, "lookup")) == b"":',
        "tests/store/test_store_encryption.py -k removed_doubled",
    ),
    Guard(
        "joined recordings",
        "data/container.py",
        'return "several FLAC files are joined',
        'return None and "several FLAC files are joined',
        f"{HEARD} -k 'joined_files and flac'",
    ),
    Guard(
        "chained Ogg",
        "data/container.py",
        'return "several Ogg streams are chained',
        'return None and "several Ogg streams are chained',
        f"{HEARD} -k 'joined_files and ogg'",
    ),
    Guard(
        "headers that end too early",
        "data/container.py",
        "return _told(seconds, rest / bytes_per_second)",
        "return None",
        f"{LENGTHS} -k 'ends_before'",
    ),
    Guard(
        "a streamed FLAC",
        "data/container.py",
        "return _with_data_size(file) or flac_with_length(file)",
        "return _with_data_size(file)",
        f"{LENGTHS} -k written_as_a_stream",
    ),
    Guard(
        "times in an Ogg",
        "data/container.py",
        "if is_timed and time <",
        "if False and time <",
        f"{LENGTHS} -k lies_about",
    ),
    Guard(
        "what runs name",
        "report/collect.py",
        "if manifest is None and settings.data.train:",
        "if False:",
        f"{COLLECT} -k unless_it_is_named",
    ),
    Guard(
        "where a manifest of a run hears",
        "report/collect.py",
        "if manifest is None and root is None:",
        "if False:",
        f"{COLLECT} -k recordings_that_the_manifest",
    ),
    Guard(
        "what comparisons name",
        "report/heard.py",
        'require_near(table.manifest, run, option="--test-manifest")',
        "pass",
        "tests/report/test_heard.py -k names_the_manifests",
    ),
    Guard(
        "edit lists",
        "data/aac.py",
        "if num_edits > 1 or not ticks or start < 0 or speed != _NORMAL_SPEED:",
        "if False:",
        f"{AAC} -k rearranges",
    ),
    Guard(
        "names in other letters",
        "store/voiceprints.py",
        "    if plain != name:",
        "    if False:",
        "tests/store/test_store.py -k look_like_others",
    ),
    Guard(
        "speakers in other letters",
        "data/check/findings.py",
        "same_looking(manifest.speakers, spelling=plain_letters)",
        "same_looking(manifest.speakers)",
        f"{LISTS} -k letters_that_look",
    ),
    Guard(
        "a way out of WebM",
        "data/audio.py",
        "What FFmpeg reads, `ffmpeg -i IN OUT.wav` writes anew.",
        "",
        f"{HEARD} -k webm",
    ),
    Guard("holes in an MP3", "data/container.py", "if hole > _MP3_PASSED else", "if False else", f"{HEARD} -k hole"),
    Guard(
        "settings of a model in few words",
        "bundle/bundle.py",
        "got an error in {path} ({in_short(error)}).",
        "got an error in {path} ({error}).",
        f"{MODELS} -k hostile_settings",
    ),
    # Not of a stranger, but of what nobody would see to be missing: mutants of more than one token, and of functions
    # that mutmut does not reach.
    Guard(
        "the best model",
        "training/run.py",
        "metrics is not None and metrics.eer < self._best_eer()",
        "metrics is not None",
        f"{RUNS} -k best_model_stays",
    ),
    Guard(
        "the progress of a loss",
        "training/loop.py",
        "self._set_progress(self._step / self.num_steps)",
        "pass",
        f"{RUNS} -k told_before_each_step",
    ),
    Guard(
        "running statistics of several processes",
        "training/loop.py",
        "average_buffers(self._model)\n                if self._mean",
        "pass\n                if self._mean",
        f"{RUNS} -k running_statistics",
    ),
    Guard(
        "other utterances for each grouping",
        "sampling/hard_batches.py",
        "default_rng(self._random.shape.seed + epoch)",
        "default_rng(self._random.shape.seed)",
        "tests/sampling/test_hard_batches.py -k every_grouping_looks",
    ),
    Guard(
        "fsync of a file",
        "core/files.py",
        "os.fsync(file.fileno())\n    written",
        "pass\n    written",
        f"{CORE} -k disk",
    ),
    Guard("fsync of a folder", "core/files.py", "os.fsync(descriptor)", "pass", f"{CORE} -k disk"),
    Guard(
        "renaming a file",
        "core/files.py",
        "temporary.replace(path)",
        "shutil.copy(temporary, path)",
        f"{CORE} -k replaced_by_another",
    ),
    Guard(
        "renaming a folder",
        "core/files.py",
        "        new.replace(path)",
        "        shutil.copytree(new, path)",
        f"{CORE} -k one_that_was_written",
    ),
    Guard(
        "secure_delete, zeroes",
        "store/store_file.py",
        '"secure_delete = ON",',
        '"secure_delete = OFF",',
        f"{DELETION} -k place_of_the_deleted",
    ),
    Guard("secure_delete", "store/store_file.py", '"secure_delete = ON",', "", f"{DELETION} -k every_connection"),
    Guard("synchronous = FULL", "store/store_file.py", '"synchronous = FULL",', "", f"{DELETION} -k every_connection"),
    Guard("VACUUM", "store/store_file.py", 'connection.execute("VACUUM")', "pass", f"{DELETION} -k unused_pages"),
    Guard(
        "pre-emphasis of the first sample",
        "features/filterbank.py",
        "emphasised[0] -= _PREEMPHASIS * windowed[0]",
        "pass",
        "tests/features/test_log_mel.py -k first_sample",
    ),
    Guard(
        "memory of decoding",
        "data/audio.py",
        "parts = [np.empty((0, file",
        "parts = [np.ones((wanted // 100, 1), np.float32)[:0], np.empty((0, file",
        "tests/data/test_audio.py -k memory_follows",
    ),
    Guard(
        "tables of an MP4",
        "data/aac.py",
        "    if is_mp4:\n        _refuse_unbounded_headers(path)",
        "    if False:\n        pass",
        f"{AAC} -k table_cannot_promise",
    ),
    Guard(
        "length of an MP4",
        "data/aac.py",
        "parts = [np.empty((0, self",
        "parts = [np.ones((self._stream.duration // 10, 1), np.float32)[:0], np.empty((0, self",
        f"{AAC} -k many_hours",
    ),
    Guard("audio beside a header", "data/aac.py", 'if box.kind == b"mdat":', "if False:", f"{AAC} -k is_not_read"),
    Guard(
        "long recordings in shards",
        "data/storage/packed.py",
        "self.byte_length <= _READ_WHOLE_BYTES",
        "True",
        "tests/data/storage/test_shards.py -k huge_recording",
    ),
]


def main(parts: list[str]) -> int:
    """Try the parts that are named, or all."""
    chosen = [guard for guard in GUARDS if not parts or guard.part in parts]
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, COPY / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", COPY)
    results = [tried(guard) for guard in chosen]
    return 0 if all(results) else 1


def tried(guard: Guard) -> bool:
    """Whether the tests fail without the line."""
    path = COPY / "src" / "chns" / guard.module
    content = path.read_text(encoding="utf-8")
    if content.count(guard.line) != 1:
        sys.stdout.write(f"NOT THERE  {guard.part}: {guard.line!r} in {guard.module}\n")
        return False
    path.write_text(content.replace(guard.line, guard.without), encoding="utf-8")
    try:
        failed = failures(guard.tests)
    finally:
        path.write_text(content, encoding="utf-8")
    sys.stdout.write(f"{'noticed ' if failed else 'UNNOTICED'}  {guard.part}: {', '.join(failed) or guard.tests}\n")
    sys.stdout.flush()
    return bool(failed)


def failures(tests: str) -> list[str]:
    """Names of the tests that failed, not of those that could not begin; the first is enough."""
    path, _, words = tests.partition(" -k ")
    chosen = ["-k", words.strip("'")] if words else []
    environment = {**os.environ, "PYTHONPATH": str(COPY / "src"), "OMP_NUM_THREADS": "1"}
    options = ["-x", "-m", "", "-p", "no:cacheprovider", "-rf", "--tb=no"]  # -m: slow tests too
    command = [sys.executable, "-m", "pytest", *options, path, *chosen]
    done = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        sys.exit(f"guard must name a test that there is, got {tests}.")
    shown = done.stdout
    return [line.split(" - ")[0].rpartition("::")[2] for line in shown.splitlines() if line.startswith("FAILED")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
