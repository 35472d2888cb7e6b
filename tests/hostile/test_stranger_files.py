"""Configurations, tables and score files made to hang, to fill the memory or to be read as something else."""

import json
import os
from dataclasses import asdict

import pytest
import yaml
from chns.config import TrainSettings
from chns.report.run_settings import read_settings
from chns.run_folder import RunFolder

from chns.cli import main
from chns.cli.train_command import build_parser
from chns.comparison.comparison_settings import read_comparison
from chns.core.errors import ConfigError, RunFolderError
from chns.core.files import LARGEST_YAML_BYTES, bounded_text, read_yaml, require_small_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)  # 10^29 values
IN_ONE_LINE = "[" + ", ".join(["&a0 [x]", *(f"&a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))]) + "]"
ATTACKS = {
    "aliases of aliases": (f"{BOMB}features: {{x: *a29}}\n", "at most 100,000 values with aliases followed"),
    "aliases in a text": (f"train: {{epochs: '{IN_ONE_LINE}'}}\n", "at most 100,000 values with aliases followed"),
    "an alias of itself": ("features: &a {x: *a}\n", "alias in YAML must stand outside of what it names"),
    "depth": ("features: {x: " + 60 * "[" + 60 * "]" + "}\n", "nested at most 50 deep"),
    "great depth": ("features: {x: " + 100_000 * "[" + 100_000 * "]" + "}\n", "exceeded maximum nesting depth"),
    "a long value": (f"seed: 0x{'f' * 5_000}\n", "value in YAML must be at most 3,000 characters"),
    "size": ("# " + "x" * LARGEST_YAML_BYTES + "\n", "at most 1,048,576 bytes"),
    "a class": ("features: {x: {class_path: a.B}}\n", "must name classes by `factory`"),
    "a class in a text": ("features: {x: '{class_path: a.B}'}\n", "must name classes by `factory`"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_run_folder_with_hostile_yaml_is_refused(attack, tmp_path):
    text, message = ATTACKS[attack]
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunFolderError, match=rf"config\.yaml must be YAML, got something else in .*{message}"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("command", ["train", "augment-preview"])
def test_a_configuration_of_hostile_yaml_is_refused(attack, command, tmp_path, capsys):
    text, message = ATTACKS[attack]
    (tmp_path / "config.yaml").write_text(text)
    words = [command, *(["m.parquet"] if command != "train" else []), "--config", str(tmp_path / "config.yaml")]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert message in said
    assert len(said.partition("error: ")[2]) < 1_000


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_comparison_of_hostile_yaml_is_refused(attack, tmp_path):
    text, message = ATTACKS[attack]
    (tmp_path / "compare.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_comparison(tmp_path / "compare.yaml")
    assert len(str(caught.value)) < 1_500


def test_an_option_on_the_command_line_is_bounded_too(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["--config", f"{BOMB}features: {{x: *a29}}\n"])
    assert "aliases followed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[1, 2]", "x" * 2_000, "- a\n" * 5_000])
def test_a_configuration_without_settings_is_quoted_in_short(text, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["--config", str(tmp_path / "config.yaml")])
    said = capsys.readouterr().err
    assert "configuration must hold settings, got" in said
    assert len(said.partition("error: ")[2]) < 1_000


def test_a_section_that_is_text_is_not_read_as_the_name_of_a_file(tmp_path):
    (tmp_path / "other.yaml").write_text("train: secret.parquet\n")
    settings = {**asdict(TrainSettings()), "data": str(tmp_path / "other.yaml")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(RunFolderError, match=r"got '/.*for the section data in .*sections are mappings"):
        read_settings(RunFolder.open(tmp_path))


def test_anchors_that_save_typing_still_work(tmp_path):
    (tmp_path / "config.yaml").write_text("train: {epochs: 7}\nfeatures: {a: &x [1], b: *x}")
    assert read_yaml(tmp_path / "config.yaml")["features"] == {"a": [1], "b": [1]}
    assert build_parser().parse_args(["--config", str(tmp_path / "config.yaml")]).train.epochs == 7


def test_the_values_behind_aliases_are_counted():
    ten = "a: &a [" + "1, " * 9 + "1]\n"
    require_small_yaml(ten + "".join(f"b{n}: *a\n" for n in range(8_000)))
    with pytest.raises(ConfigError, match="at most 100,000 values"):
        require_small_yaml(ten + "".join(f"b{n}: *a\n" for n in range(10_000)))


def test_yaml_of_a_device_or_in_another_encoding_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="file must be a regular one"):
        read_yaml(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match="file must be UTF-8 text, got unexpected end of data at byte 3"):
        bounded_text(tmp_path / "latin")
    with pytest.raises(ConfigError, match="YAML must be at most"):
        require_small_yaml("x" * (LARGEST_YAML_BYTES + 1))


@pytest.mark.parametrize("value", ["2001-99-99", "{? [a]: b}", "*nothing", "!!python/name:os.system"])
def test_values_that_yaml_itself_stumbles_over_are_an_error_of_ours(value, tmp_path):
    (tmp_path / "config.yaml").write_text(f"data: {value}")
    with pytest.raises(ConfigError, match="YAML must be well-formed and small"):
        read_yaml(tmp_path / "config.yaml")


def test_a_summary_without_end_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "summary.json").write_text(json.dumps({"a": "x" * LARGEST_YAML_BYTES}))
    with pytest.raises(RunFolderError, match=r"summary\.json must be JSON, .*at most 1,048,576 bytes"):
        RunFolder.open(tmp_path).summary()
