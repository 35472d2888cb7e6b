"""Change the code in small ways and see whether its tests notice: what `make mutants` does.

    python tests/mutants.py [MODULE ...]

mutmut changes one thing at a time in a copy of the tree and runs the tests that reach the changed function, within the
test files that `TESTS` names for the module and with a limit on their time. A mutant that no test notices has survived:
either a test is missing, or the change has no effect that anyone could see, which `EQUIVALENT` says with its reason.

Prints what survives and writes `docs/mutants.md`. Exits with 1 if a survivor is not explained. A run that was stopped
goes on where it was; only functions that changed since, and survivors, are run again. mutmut does not change what
stands outside of functions, nor functions with a decorator (`atomic_path`, `transaction`), and sees no change in what
a test module makes while it is imported (a loss in `parametrize`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutants"
IN_MEMORY = Path("/dev/shm")  # where a test that brings a file to the disk does not wait for one
MUTMUT = ROOT / "tests" / "helpers" / "mutmut_once_collected.py"
PROCESSES = int(os.environ.get("PROCESSES", "2"))
# What these tests need: a conftest that imports half of the package would cost each process more than its tests.
PLUGINS = ["--noconftest", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0"]
NOT_AT_RANDOM = [
    "--deselect=tests/store/test_store_hostile.py::test_random_damage_gives_an_error_of_ours_or_valid_people"
]
TESTS = {
    "losses/contrast.py": ["tests/losses"],
    "losses/aam_softmax.py": ["tests/losses/test_losses.py"],
    "evaluation/metrics.py": [
        f"tests/evaluation/test_{name}.py" for name in ("metrics", "det", "detection_cost", "calibration_metrics")
    ],
    "sampling/schedule.py": ["tests/sampling/test_schedule.py"],
    "sampling/hard_batches.py": ["tests/sampling/test_hard_batches.py"],
    "sampling/speaker_batches.py": ["tests/sampling/test_speaker_batches.py", "tests/sampling/test_batches.py"],
    "sampling/batches.py": [
        f"tests/sampling/test_{name}.py"
        for name in ("batches", "neighbour_batches", "speaker_batches", "speakers_keyword")
    ],
    "sampling/clusters.py": ["tests/sampling/test_clusters.py"],
    "sampling/neighbours.py": ["tests/sampling/test_neighbours.py"],
    "sampling/same_person.py": ["tests/sampling/test_same_person.py"],
    "core/files.py": ["tests/core/test_files.py", "tests/core/test_yaml.py"],
    "store/voiceprints.py": [
        "tests/store/test_store.py",
        "tests/store/test_store_encryption.py",
        "tests/store/test_store_deletion.py::test_readers_that_stay_keep_a_deletion_from_being_finished_and_it_says_so",
    ],
    "store/store_file.py": [f"tests/store/test_store{name}.py" for name in ("", "_deletion", "_hostile")]
    + NOT_AT_RANDOM,
    "store/content.py": [
        *(
            f"tests/store/test_{name}.py"
            for name in ("store", "store_encryption", "store_hostile", "voiceprint_search")
        ),
        *NOT_AT_RANDOM,
    ],
    "store/encryption.py": ["tests/store/test_store_encryption.py"],
}
IN_ANY_CASE = "Python takes large and small letters alike"
LOOKED_AT = "only how many are looked at before all are"
ELSEWHERE = "UTF-8 on this system; test_text_is_utf_8_whatever_the_system_prefers fails, in another process"
COUNTED = "plain_sources has counted them"
AT_ROUNDING = "no two shares of trials differ by just that"
FASTER_ON_A_GPU = "only how long a GPU is waited for"
# Module: a changed line as mutmut writes it, and why nobody can see the change.
EQUIVALENT: dict[str, dict[str, str]] = {
    "losses/contrast.py": {
        'for name, value in (("beta", beta), ("beta_start", beta_start or 1.0)):': "only the sign of the value is used",
        "per_anchor = torch.bincount(anchors, )": "the length only adds zeros at the end, which no anchor looks up",
    },
    "losses/aam_softmax.py": {
        'drawn = torch.rand(num_speakers, generator=generator, pin_memory=device.type == "XXcudaXX")': FASTER_ON_A_GPU,
        'drawn = torch.rand(num_speakers, generator=generator, pin_memory=device.type == "CUDA")': FASTER_ON_A_GPU,
        "drawn = torch.rand(num_speakers, generator=generator, pin_memory=None)": FASTER_ON_A_GPU,
        "drawn = torch.rand(num_speakers, generator=generator, )": FASTER_ON_A_GPU,
        "priority = drawn.to(device, )": FASTER_ON_A_GPU,
        "priority = drawn.to(device, non_blocking=False)": FASTER_ON_A_GPU,
        "priority[present] = -2.0": "any number below 0 comes last",
    },
    "evaluation/metrics.py": {
        "after = int(np.argmax(gap > 0))": "where the rates are equal, both lines that meet there end in it",
        "turns = (np.abs(np.diff(rate[:-1], 2)) >= _ROUNDING for rate in (self.miss, self.false_alarm))": AT_ROUNDING,
        "nearest = int(np.argmax(difference < difference.min() + _ROUNDING))": AT_ROUNDING,
    },
    "core/files.py": {
        "temporary.write_text(text, encoding=None)": ELSEWHERE,
        "temporary.write_text(text, )": ELSEWHERE,
        "return path.read_text(encoding=None)": ELSEWHERE,
        'temporary.write_text(text, encoding="UTF-8")': IN_ANY_CASE,
        'return path.read_text(encoding="UTF-8")': IN_ANY_CASE,
        "entry.is_file(follow_symlinks=None)": "as false as False",
        "elif entry.is_dir(follow_symlinks=None):": "as false as False",
        "mask = os.umask(1)": "the mask is put back at once",
        "for event in yaml.parse(text, ):": "the loader in Python tells of the same events, only slower",
    },
    "sampling/batches.py": {
        "positions = rng.choice(ends[-1], self._num_hard, replace=None)": "as false as False",
        'distance = -np.einsum("CD,D->C", self._centres, self._centres[first])': "names of axes",
        "likely_enough = min(num_clusters, 9 + 2 * self._num_hard * num_clusters // len(self.speakers))": LOOKED_AT,
        "likely_enough = min(num_clusters, 8 + 3 * self._num_hard * num_clusters // len(self.speakers))": LOOKED_AT,
        "if self._clusters.sizes[nearest].sum() <= self._num_hard:": "all of them begin with the same",
        'return self._until_enough(nearest[np.argsort(distance[nearest], kind="STABLE")])': "numpy ignores case",
        "nearest = np.argpartition(distance, likely_enough - 2)[:likely_enough]": "the last one is used if all are",
        "place = np.full(num_known + 2, -1, np.int32)  # the last one answers for the index -1": "one more is nobody",
        "place = np.full(num_known + 1, -2, np.int32)  # the last one answers for the index -1": "both are nobody",
        "spare = band[:, self.group_size - 2 :].T  # one more of each group, then the next one of each": (
            "who is in a group already is passed over"
        ),
    },
    "sampling/speaker_batches.py": {
        "self._resuming = None": "as false as False",
        "self._resuming = True": "the first epoch begins with its first step either way",
        'return cls(np.argsort(labels, kind="STABLE"), np.cumsum(sizes) - sizes, sizes)': "numpy ignores case",
        "ranks = rng.choice(total - len(excluded), count, replace=None)": "as false as False",
        'by_speaker = shuffled[np.argsort(speaker_labels[shuffled], kind="STABLE")]': "numpy ignores case",
        "sums = np.zeros((num_speakers, embeddings.shape[1]), None)": "None is float64",
        "sums = np.zeros((num_speakers, embeddings.shape[1]), )": "float64 is what numpy takes, too",
        "for taken in np.sort(drawn[:, :j], ).T:": "the last axis is what numpy takes, too",
        'self._kept: tuple[int, int] | None = ""': "neither is an epoch and a round",
        "self._resuming = step >= 0": "at step 0 an epoch begins with its first step either way",
        "self._order = np.empty(1, np.int64)": "only its beginning of no length is used before there is an order",
    },
    "sampling/clusters.py": {
        'cosines: Float64Array = np.einsum("SD,SD->S", centroids, clusters.centres[clusters.labels])': "names of axes",
        "return cosines.astype(None)": "None is float64",
        'best = np.argsort(-cosines, kind="STABLE")[:count]': "numpy ignores case",
        "starts = (points[rng.choice(len(points), num_clusters, replace=None)] for _ in runs)": "as false as False",
        "some = np.sort(rng.choice(len(points), num_points, replace=None))": "as false as False",
    },
    "sampling/hard_batches.py": {
        "embeddings = np.asarray(self._embed(chosen), None)": "centroids are float32 of any numbers",
        "embeddings = np.asarray(self._embed(chosen), )": "centroids are float32 of any numbers",
        "_log.info(self.decisions[-1])": "without values, nothing is formatted",
        '"base64": base64.b64encode(value.tobytes()).decode("ASCII"),': IN_ANY_CASE,
    },
    "sampling/neighbours.py": {
        "own[~own.any(axis=1), +1] = True": "all that were found are equal then",
        "own[~own.any(axis=1), -2] = True": "all that were found are equal then",
        "others: IntArray = found[~own].reshape(len(found), -2)": "numpy takes it for -1",
        "low, high = int(self.indices.min(initial=-1)), int(self.indices.max(initial=-2))": "both are nobody",
    },
    "sampling/same_person.py": {
        'near = near[np.argsort(own_of_pair[near] - similarity[near], kind="STABLE")]': "numpy ignores case",
        "labels, one = speaker_labels[some], embeddings[some].astype(None)": "None is float64",
        "np.add.at(sums, speaker_labels[some], unit_or_zero(embeddings[some].astype(None)))": "None is float64",
        'cosines[some] = np.einsum("UD,UD->U", unit_or_zero(one), unit_or_zero(sums[labels] - one))': "names of axes",
        'similarity[some] = np.einsum("PD,PD->P", directions[a], centroids[b])': "names of axes",
        'similarity[some] += np.einsum("PD,PD->P", directions[b], centroids[a])': "names of axes",
        'squares = np.einsum("UD,UD->U", embeddings, embeddings)': "names of axes",
        "lengths = np.linalg.norm(vectors, axis=+1, keepdims=True)": "rows of a matrix",
        "cosines[counts[speaker_labels] == 1] = None": "None becomes NaN in an array of numbers",
    },
    "sampling/schedule.py": {
        "if self._best_eer is None or eer <= self._best_eer:": "an equal number takes the place of itself"
    },
    "store/store_file.py": {
        "if not is_blocked or time.monotonic() >= deadline:": "the clock is read once or never at just that time",
        "_logger.warning(error)": "without values, nothing is formatted",
    },
    "store/voiceprints.py": {"return transaction(self._connection, self.path, writes=None)": "as false as False"},
    "store/content.py": {
        'if self._values.vouch(b"XXXX", b"") is None:': "only whether anything is vouched for",
        'if self._values.vouch(b"", b"XXXX") is None:': "only whether anything is vouched for",
        "is_unit = np.abs(np.linalg.norm(units, axis=1) - 1) <= 1e-3": "at exactly this distance either will do",
        "if len(sums) and norms.min() <= 1e-3:": "at exactly this length either will do",
        "for vector, source in zip(utterances.embeddings.astype(_STORED), utterances.sources, strict=None)": COUNTED,
        "for vector, source in zip(utterances.embeddings.astype(_STORED), utterances.sources, strict=False)": COUNTED,
        "for vector, source in zip(utterances.embeddings.astype(_STORED), utterances.sources, )": COUNTED,
        'best_first = candidates[np.argsort(-scores[candidates], kind="STABLE")]': "numpy ignores case",
        "return [self._voiceprint(list(of_person)) for _, of_person in groupby(rows, key=itemgetter(1))]": (
            "nobody shares a lookup"
        ),
        'pq.write_table(table, temporary, compression="ZSTD")': "pyarrow ignores case",
    },
    "store/encryption.py": {
        "content = file.read(_MAX_KEY_BYTES + 2)": "one byte more is read of a file that is refused"
    },
}
SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|VACUUM|WHERE|ORDER BY)\b|= (ON|OFF|FULL)\b")
SHOW = (
    "import json, sys; from mutmut.mutation.diff_apply import get_diff_for_mutant as diff; "
    "print(json.dumps([diff(name, path=sys.argv[1]) for name in sys.argv[2:]]))"
)
EXPLAINED = "explained"


def main(modules: list[str]) -> int:
    unknown = set(modules) - set(TESTS)
    if unknown:
        sys.exit(f"module must be one of {', '.join(TESTS)}, got {', '.join(sorted(unknown))}.")
    for module in modules or TESTS:
        run_mutants(module)
    unexplained = write_table(ROOT / "docs" / "mutants.md")
    for line in unexplained:
        sys.stdout.write(f"{line}\n")
    return 1 if unexplained else 0


def run_mutants(module: str) -> None:
    """Run those mutants of a module that have no result yet, and the survivors again."""
    folder = folder_of(module)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("src", "tests"):
        copy_tree(ROOT / name, folder / name, "__pycache__")
    # mutmut copies once only; a folder that was missing when Python started would not be imported from.
    copy_tree(ROOT / "src", folder / "mutants" / "src", "__pycache__", Path(module).name)
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/chns/{module}"],
        "pytest_add_cli_args": PLUGINS,
        "pytest_add_cli_args_test_selection": TESTS[module],
        "process_isolation": "forkserver",  # torch and faiss have threads, which a plain fork would not survive
        "timeout_constant": 6.0,  # a mutant may take 10 times as long as the tests that reach it, and a minute more
        "timeout_multiplier": 10.0,
        "use_git_change_detection": False,
    }
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(f"{text}\n[tool.mutmut]\n{lines}", encoding="utf-8")
    forget_survivors(module)
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=IN_MEMORY if IN_MEMORY.is_dir() else folder) as temporary:
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder / "mutants" / "src"),  # processes that tests start shall run the mutant too
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_DEBUG_TEMPROOT": temporary,
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(MUTMUT), "run", "--max-children", str(PROCESSES)]
        subprocess.run(command, cwd=folder, env=environment, check=True)


def copy_tree(source: Path, target: Path, *left_out: str) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*left_out))


def forget_survivors(module: str) -> None:
    """Have the survivors run again, for the tests may have become better since."""
    file = meta_file(module)
    if file.is_file():
        meta = json.loads(file.read_text(encoding="utf-8"))
        codes = meta["exit_code_by_key"]
        meta["exit_code_by_key"] = {key: None if outcome(code) != "killed" else code for key, code in codes.items()}
        file.write_text(json.dumps(meta), encoding="utf-8")


def outcome(code: int | None) -> str:
    """What became of a mutant, of the exit code that mutmut keeps."""
    if code in (None, 4, 255):  # 4 and 255: pytest found a test no more, or could not go on
        return "not run"
    return "survived" if code in (0, 5, 33) else "killed"  # 5 and 33: no test reaches the function


def write_table(path: Path) -> list[str]:
    """Write the results of all modules; returns the survivors that nothing explains."""
    told = path.read_text(encoding="utf-8")
    rows, unexplained = [], []
    for module in TESTS:
        file = meta_file(module)
        codes = json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"] if file.is_file() else {}
        if all(outcome(code) == "not run" for code in codes.values()):  # the result of another machine stays
            rows.append(next((row for row in told.splitlines() if row.startswith(f"| `{module}` |")), ""))
            continue
        counts = Counter(map(outcome, codes.values()))
        to_explain = set(EQUIVALENT.get(module, {}))
        survivors = [name for name, code in codes.items() if outcome(code) == "survived"]
        for name, (code, instead) in zip(survivors, changed_lines(module, survivors), strict=True):
            if instead in EQUIVALENT.get(module, {}) or is_sql_in_other_letters(code, instead):
                to_explain.discard(instead)
                counts["survived"] -= 1
                counts[EXPLAINED] += 1
            else:
                unexplained.append(f"{name}: {instead}")
        if not counts["not run"]:
            unexplained += [f"{module}: no survivor is as EQUIVALENT says: {line}" for line in sorted(to_explain)]
        unfinished = f" ({counts['not run']} not run)" if counts["not run"] else ""
        rows.append(
            f"| `{module}` | {counts.total()}{unfinished} | {counts['killed']} | {counts['survived']} | "
            f"{counts[EXPLAINED]} |"
        )
    reasons = ["| `store/...` | a statement of SQL in other letters | SQL takes large and small letters alike |"]
    reasons += [
        f"| `{module}` | `{line.replace('|', chr(92) + '|')}` | {reason} |"
        for module, lines in EQUIVALENT.items()
        for line, reason in lines.items()
    ]
    table = "\n".join(["| module | mutants | killed | survived | equivalent |", "|---|---|---|---|---|", *rows])
    listed = "\n".join(["| module | changed line | why nobody can see it |", "|---|---|---|", *reasons])
    for mark, text in (("results", table), ("equivalent", listed)):
        told = re.sub(
            rf"(<!-- {mark} -->\n).*?(<!-- end -->)", lambda m, t=text: f"{m[1]}{t}\n{m[2]}", told, flags=re.DOTALL
        )
    path.write_text(told, encoding="utf-8")
    return unexplained


def changed_lines(module: str, names: list[str]) -> list[tuple[str, str]]:
    """What the code says and what each mutant says instead, each in one line."""
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, f"src/chns/{module}", *names],
        cwd=folder_of(module), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return list(map(changed_line, json.loads(shown)))


def changed_line(diff: str) -> tuple[str, str]:
    """What the code says and what the mutant says instead, of mutmut's difference."""
    code, instead = (
        " ".join(line[1:].strip() for line in diff.splitlines() if line.startswith(sign) and line[:3] != 3 * sign)
        for sign in "-+"
    )
    return code, instead or f"without {code}"


def is_sql_in_other_letters(code: str, instead: str) -> bool:
    return bool(SQL.search(code)) and code.upper() == instead.upper()


def folder_of(module: str) -> Path:
    return WORK / module.removesuffix(".py").replace("/", "-")


def meta_file(module: str) -> Path:
    return folder_of(module) / "mutants" / "src" / "chns" / f"{module}.meta"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
