"""The shipped settings: they are part of the package, found by name, listed, printed and copied."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from chns.cli import main
from chns.cli.training_commands import train_parser
from chns.comparison.runs import read_comparison
from chns.core import config_path, presets

ROOT = Path(__file__).parents[2]
STRATEGIES = {"aam_softmax", "auto", "chns", "chns_hscl", "hscl", "neighbours", "supcon"}


def test_the_wheel_holds_every_preset(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("chns/configs/")}
    assert packed == {f"chns/configs/{name}.yaml" for name in presets()}


def test_the_presets_lie_inside_the_package_alone():
    assert set(presets()) > STRATEGIES
    assert not (ROOT / "configs").exists()


def test_a_bare_name_finds_the_preset_and_names_combine_with_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("seed: 5")
    words = [
        "--config",
        "chns",
        "--config",
        "thin-resnet34",
        "--config",
        "own.yaml",
        "--config",
        "{train: {epochs: 7}}",
    ]
    made = train_parser().parse_args(words)
    assert made.batches.kind == "clustered"
    assert made.encoder.factory == "chns.encoders.thin_resnet34"
    assert (made.seed, made.train.epochs) == (5, 7)


def test_a_file_of_a_presets_name_is_no_trap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chns").write_text("seed: 5")
    assert config_path("chns") == presets()["chns"]
    assert config_path("./chns") == Path("chns")


@pytest.mark.parametrize(
    ("given", "meant"), [("chsn", "chns"), ("configs/auto.yaml", "auto"), ("thin_resnet_34", "thin_resnet34")]
)
def test_a_mistyped_preset_is_one_line_with_the_nearest(given, meant, tmp_path, capsys):
    assert main(["train", "--config", given, "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"got '{given}'. Did you mean {meant}? `chns configs` lists them." in printed


def test_the_list_has_a_line_each(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(presets())
    assert all(len(line.split()) > 3 and len(line) <= 130 for line in lines)


def test_a_preset_is_printed_and_copied_but_over_nothing(tmp_path, capsys):
    assert main(["configs", "chns-hscl"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["batches"] == {"kind": "clustered"}
    copy = tmp_path / "own.yaml"
    assert main(["configs", "compare", "--out", str(copy)]) == 0
    assert copy.read_bytes() == presets()["compare"].read_bytes()
    assert main(["configs", "chns", "--out", str(copy)]) == 2
    assert "--out must be a new file, got" in capsys.readouterr().err
    assert main(["configs", "--out", str(tmp_path / "other")]) == 2
    assert "--out must come with the name of a preset" in capsys.readouterr().err
    assert main(["configs", "chnss"]) == 2
    assert "NAME must be one of" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_is_found_by_name():
    assert "auto" in read_comparison("ablation").strategies


def test_who_has_read_enough_ends_the_command_without_a_word():
    command = f"{sys.executable} -m chns configs | true"  # which never reads
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
