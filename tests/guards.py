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
        f"{SURVIVES} -k 'end_with_it and KILL'",
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
        "return _with_data_size(file) or _with_num_frames(file)",
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
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-rf", "--tb=no", path, *chosen]
    shown = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, check=False).stdout
    return [line.split(" - ")[0].rpartition("::")[2] for line in shown.splitlines() if line.startswith("FAILED")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
