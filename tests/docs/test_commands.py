"""Every command of the README, the documentation and the help texts, run by an installed wheel in a folder of its own.

What the commands name stands there, small (`stand_ins.py`); each command starts from the same state. Options behind a
command make it short; the command itself is as it is printed. What cannot be run here is listed with the reason.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chns.cli import COMMANDS, parser_of

ROOT = Path(__file__).parents[2]
HELPERS = ROOT / "tests" / "helpers"

# Other programs, whose commands are not ours to test.
FOREIGN = {"aws", "cat", "curl", "docker", "make", "parallel", "pip", "python", "systemctl"}

# By the beginning of a command: why it is parsed, but not run.
ONLY_PARSED = {
    "chns serve": "runs until it is stopped: tests/service",
    "chns demo": "minutes: tests/cli/test_demo.py",
    "chns report runs/demo": "the same",
    "chns metrics sasv.txt": "tests/cli/test_metrics.py",
    "chns metrics asv.txt": "tests/cli/test_metrics.py",
    "chns evaluate MODEL test.parquet --gallery": "needs hundreds of speakers: tests/cli/test_evaluate.py",
    "chns evaluate runs/chns/model test.parquet --gallery": "the same",
    "chns import downloaded/folder": "tests/inference/test_hub.py",
    "chns train --config tiny --data.train train.parquet --out runs/mine": "tests/training/test_own_parts.py",
    "chns embed runs/mine": "the same",
    "chns compare paper": "needs 1,300 speakers: tests/comparison/test_settings.py and tests/cli/test_compare.py",
    "chns train --config {": "stands for seven commands, of which the help has three",
    "chns train --config chns --config thin_resnet34 ...": "the help has it whole",
}
NETWORK = re.compile(r"s3://|hf://|--private")

# By the beginning of a command: what makes it short, or what a small corpus asks for.
SHORTER = {
    "chns train": "--config small.yaml",
    "chns compare ablation": "--dry-run",
    "chns compare compare_synthetic": "--dry-run",
    "chns check": "--workers 1",
    "chns evaluate runs/chns/model vox1.parquet --trials veri_test2.txt --out as.txt": "--top-k 20",
    "chns evaluate MODEL vox1.parquet --trials veri_test2.txt --out s.txt --as-norm": "--top-k 20",
    "chns speech": "--workers 1",
    "chns split": "--held-out 5",
    "chns trials": "--targets 3 --nontargets 30",
    "chns prepare synthetic": "--speakers 4 --utterances 2 --families 2",
}

# By the beginning of a command: what stands in its way, as it would not where somebody pastes it.
FIRST_REMOVED = {
    "chns enrol runs/chns/model people.store anna anna-1": "people.store",
    "chns convert train.parquet --to kaldi": "data/train",
    "chns configs compare --out": "compare.yaml",
    "chns import": "models",
    "chns compare compare.yaml": "runs/comparison",  # trained on a manifest elsewhere
    "chns pack vox2.parquet --out /data": "data/vox2-shards",
}

DRIVER = """
import contextlib, io, json, os, pathlib, shlex, shutil, sys, traceback
import chns
from chns.cli import main
from chns.core import ChnsError
assert pathlib.Path(chns.__file__).is_relative_to(sys.argv[1]), chns.__file__
import chns.bundle.bundle_graph
export = chns.bundle.bundle_graph.add_graph
def none(*_):
    raise ChnsError("graphs of trainings take seconds each")
def copy(source, target):
    return shutil.copyfile(source, target) if source.endswith((".store", ".csv")) else os.link(source, target)
top = pathlib.Path.cwd()
for line in sys.stdin.read().splitlines():
    line, removed = json.loads(line)
    words = shlex.split(line)
    shutil.copytree(top / "stand-ins", top / "now", copy_function=copy)
    os.chdir(top / "now")
    if removed:
        path = pathlib.Path(removed)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    chns.bundle.bundle_graph.add_graph = none if words[1] in ("train", "compare", "import") else export
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(words[1:])
    except SystemExit as stopped:
        code = stopped.code
    except BaseException:
        code, _ = 99, said.write(traceback.format_exc())
    print(json.dumps([line, code, said.getvalue()[-1500:]]), flush=True)
    os.chdir(top)
    shutil.rmtree(top / "now")
"""


def in_pages():
    """Commands of the README and the pages, by the line that they are printed as."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if page.name in ("results.md", "commands.md", "fine_tuning.md") or page.parent.name in ("decisions", "results"):
            continue  # records of what was run elsewhere; made from the help texts; run in order by test_fine_tuning.py
        text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
        for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield from (line[2:] for line in block.splitlines() if line.startswith("$ "))


def in_help():
    """Commands of the help texts."""
    for name in COMMANDS:
        parser = parser_of(name)
        text = re.sub(r"\\\n\s*", "", parser.epilog)
        yield from (line.strip() for line in text.splitlines() if line.startswith("  chns "))


def plain(line):
    """A command without its comment."""
    return shlex.join(shlex.split(line, comments=True))


def ours(lines):
    """Each command of ours once."""
    return [line for line in dict.fromkeys(map(plain, lines)) if line.partition(" ")[0] == "chns"]


def why_not_run(line):
    reasons = [why for start, why in ONLY_PARSED.items() if line.startswith(start.replace("{", "'{"))]
    return (reasons or (["needs a network"] if NETWORK.search(line) else []) or [None])[0]


def in_the_way(line):
    if line.startswith("chns train") and "--out" in line:
        return shlex.split(line)[shlex.split(line).index("--out") + 1]
    return next((path for start, path in FIRST_REMOVED.items() if line.startswith(start)), None)


def test_pages_name_only_programs_that_are_known():
    assert {shlex.split(line, comments=True)[0] for line in in_pages()} <= {"chns", *FOREIGN}


def test_every_command_of_the_pages_parses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in ours(in_pages()):
        if "..." in line:
            continue
        _, name, *words = shlex.split(line)
        parser = parser_of(name)
        assert parser.parse_args(words), line


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Where the wheel is installed, without what it depends on: that is here."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(path)], check=True, capture_output=True)
    return folder / "site"


@pytest.mark.slow
def test_every_command_runs_from_a_wheel_in_a_folder_of_its_own(wheel, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{wheel}{os.pathsep}{HELPERS}"}
    (tmp_path / "stand-ins").mkdir()
    options = {"env": environment, "capture_output": True, "text": True}
    make = [sys.executable, str(HELPERS / "stand_ins.py")]
    made = subprocess.run(make, cwd=tmp_path / "stand-ins", check=False, **options)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    commands = [line for line in ours([*in_pages(), *in_help()]) if why_not_run(line) is None]
    assert len(commands) > 100
    shorter = [next((f"{line} {more}" for start, more in SHORTER.items() if line.startswith(start)), line)
               for line in commands]  # fmt: skip
    below = [json.dumps((re.sub(r"(?<= )/(data|downloads|moved)(?=[/ ])", r"\1", line), in_the_way(line)))
             for line in shorter]  # fmt: skip
    driver = [sys.executable, "-c", DRIVER, str(wheel)]
    done = subprocess.run(driver, cwd=tmp_path, check=False, input="\n".join(below), **options)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    answers = dict.fromkeys(("verify", "identify", "check"), (0, 1))  # two speakers; nobody; something to look at
    failed = [result for result in results if result[1] not in answers.get(result[0].split()[1], (0,))]
    assert not failed, "\n\n".join(f"{line}\nexit code {code}\n{said}" for line, code, said in failed)
    assert len(results) == len(below), done.stderr[-2000:]


def test_workflows_call_targets_that_there_are_on_each_python_that_is_promised():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())["jobs"]
    called = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert called == {
        f"make {name}" for name in ("check", "check-pythons", "check-lowest", "check-newest", "test-slow")
    }
    assert {line.split()[1] for line in called} <= targets
    promised = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    tested = next(step["with"] for step in jobs["pythons"]["steps"] if "with" in step)["python-version"].split()
    assert sorted(tested) == sorted(promised)
    assert jobs["weekly"]["if"] == "github.event_name == 'schedule'"
