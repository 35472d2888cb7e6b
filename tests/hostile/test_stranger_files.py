"""Configurations, tables and score files made to hang, to fill the memory or to be read as something else."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from chns.cli import main
from chns.cli.training_commands import train_parser
from chns.comparison.runs import read_comparison
from chns.core import (
    LARGEST_YAML_BYTES,
    ConfigError,
    ManifestError,
    RunFolderError,
    TrialError,
    bounded_text,
    read_yaml,
    require_small_yaml,
)
from chns.data.manifest import Manifest
from chns.evaluation.trials import read_trials
from chns.training.folder import RunFolder, read_settings
from chns.training.log import COLUMNS
from chns.training.settings import TrainSettings

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
        train_parser().parse_args(["--config", f"{BOMB}features: {{x: *a29}}\n"])
    assert "aliases followed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[1, 2]", "x" * 2_000, "- a\n" * 5_000])
def test_a_configuration_without_settings_is_quoted_in_short(text, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        train_parser().parse_args(["--config", str(tmp_path / "config.yaml")])
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
    assert train_parser().parse_args(["--config", str(tmp_path / "config.yaml")]).train.epochs == 7


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


# Tables that unfold


def parquet_of(path, columns, **settings):
    row = {"utterance": "a", "speaker": "s", "path": "a.wav", "offset_seconds": 0.0, "duration_seconds": 1.0}
    length = max(map(len, columns.values()))
    rows = {name: pa.repeat(value, length) for name, value in (row | {"sample_rate_hz": 16_000}).items()}
    pq.write_table(pa.table(rows | columns), path, compression="zstd", **settings)
    return path


def the_same(text, times):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, np.int32)), pa.array([text]))


BOMBS = {
    "a dictionary": lambda: ({"text": the_same("x" * 10**6, 27_000)}, {"dictionary_pagesize_limit": 2**24}),
    "a name": lambda: ({"speaker": the_same("x" * 10**6, 27_000)}, {"dictionary_pagesize_limit": 2**24}),
    "no strings": lambda: ({"text": the_same(b"x" * 10**6, 27_000)}, {"store_schema": False}),
    "fixed width": lambda: ({"text": pa.array([b"x" * 10**4] * 30_000, pa.binary(10**4))}, {}),
    "front coding": lambda: (
        {"text": pa.array(["x" * 10**5] * 3_000)},
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
    ),
    "compression": lambda: ({"text": pa.array(["x" * 10**5] * 3_000)}, {"use_dictionary": False}),
    "rows of nothing": lambda: ({"text": pa.nulls(4_000_000, pa.string())}, {}),
}
READ = """
import resource, sys
from chns.core import ManifestError
from chns.data.manifest import Manifest
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Manifest.read(sys.argv[1])
except ManifestError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_parquet_file_of_much_text_is_refused_before_it_is_decoded(bomb, tmp_path):
    columns, settings = BOMBS[bomb]()
    path = parquet_of(tmp_path / "m.parquet", columns, **settings)
    assert path.stat().st_size < 3_000_000
    told = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True, timeout=120)
    megabytes, _, error = told.stdout.partition(" ")
    assert error.startswith("Parquet file must unfold to at most 268,435,456 bytes")
    assert int(megabytes) < 200
    assert len(error) < 500


def test_texts_of_very_different_lengths_are_counted_exactly(tmp_path):
    """That all rows had the longest text is only a bound: here it is 30 GB, and the truth 4 MB."""
    texts = pa.DictionaryArray.from_arrays(pa.array(np.r_[1, np.zeros(29_999)].astype(np.int32)), ["x", "y" * 10**6])
    path = parquet_of(tmp_path / "m.parquet", {"text": texts, "utterance": pa.array(map(str, range(30_000)))})
    assert Manifest.read(path).column("text")[0] == "y" * 10**6


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
@pytest.mark.parametrize("groups_of", [2, 200])
def test_manifests_of_other_writers_are_read(encoding, groups_of, tmp_path):
    names = pa.array(map(str, range(300)))
    settings = {"use_dictionary": False, "column_encoding": {"utterance": encoding}, "row_group_size": groups_of}
    path = parquet_of(tmp_path / "m.parquet", {"utterance": names}, **settings)
    assert Manifest.read(path).column("utterance") == names.to_pylist()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_an_error_about_a_table_never_quotes_a_whole_value(suffix, tmp_path):
    long = "x" * 10**6
    for column, values in {"path": [f"/{long}"], "utterance": [long, long], "duration_seconds": [long]}.items():
        columns = {column: pa.array(values)}
        path = parquet_of(tmp_path / "m.parquet", columns)
        if suffix == "csv":
            table, path = pq.read_table(path), tmp_path / "m.csv"
            pyarrow.csv.write_csv(table, path)
        with pytest.raises(ManifestError, match=rf"{column} must .*'/?x{{100,200}}") as caught:
            Manifest.read(path)
        assert len(str(caught.value)) < 600
    (tmp_path / "t.txt").write_text(f"{long} b\n")
    with pytest.raises(TrialError, match="trial list must have lines like") as caught:
        read_trials(tmp_path / "t.txt", form="kaldi")
    assert len(str(caught.value)) < 600


# Run folders


HEAD = ",".join(COLUMNS)
LOGS = {
    "a long value": (f"{HEAD}\n{'9' * 200_000},0\n", "field larger than field limit"),
    "bytes": (HEAD.encode() + b"\n2,0,\xff\n", "can't decode byte 0xff"),
    "a number of another kind": (f"{HEAD}\n2,0,1_000\n", "must be written with the digits 0 to 9"),
    "a step that is none": (f"{HEAD}\nnan,0,1\n", "tell step and epoch of each line, got nan, a step"),
    "an endless epoch": (f"{HEAD}\n2,inf,1\n", "got inf, an epoch"),
    "a negative step": (f"{HEAD}\n-5,0,1\n", "got -5.0, a step"),
    "a huge step": (f"{HEAD}\n1e300,0,1\n", "got 1e[+]300, a step"),
    "no columns of ours": ("a,b\n1,2\n", "got nan, a step"),
    "a quote without end": (f'{HEAD}\n"2,0,0.5\n4,0,0.5\n', "hold numbers, got another value"),
}


@pytest.mark.parametrize("case", LOGS)
def test_a_log_that_is_none_is_refused_in_short(case, tmp_path):
    content, message = LOGS[case]
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "log.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunFolderError, match=rf"log\.csv must .*?{message}") as caught:
        RunFolder.open(tmp_path).log()
    assert len(str(caught.value)) < 800


def test_a_log_without_end_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "log.csv").write_text(f"{HEAD}\n" + "2,0,1\n" * 11)
    monkeypatch.setattr("chns.training.folder._MOST_LOG_LINES", 11)
    assert len(RunFolder.open(tmp_path).log()["step"]) == 11
    monkeypatch.setattr("chns.training.folder._MOST_LOG_LINES", 10)
    with pytest.raises(RunFolderError, match=r"log\.csv must hold numbers, .*at most 10 lines"):
        RunFolder.open(tmp_path).log()


def test_the_last_line_of_a_log_may_end_anywhere_and_no_other(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    rest = "," * HEAD.split(",").index("hard_ratio")
    (tmp_path / "log.csv").write_text(f"{HEAD}\n2,0,1\n4{rest}1\n")
    log = RunFolder.open(tmp_path).log()
    assert log["step"].tolist() == [2, 4]
    assert np.isnan(log["hard_ratio"][1])
    (tmp_path / "log.csv").write_text(f"{HEAD}\n2{rest}1\n4,0,1\n")
    with pytest.raises(RunFolderError, match=r"must tell step and epoch of each line, got nan, an epoch"):
        RunFolder.open(tmp_path).log()


@pytest.mark.parametrize("pairs", ["true", "1.5", "NaN", "-1", "null", '"2"', "9" * 5_000, "[" * 100_000, " " * 2**20])
def test_a_number_of_pairs_that_is_none_is_refused(pairs, tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "same_person.json").write_text(f'{{"pairs": {pairs}}}')
    with pytest.raises(RunFolderError, match=r"same_person\.json must hold a number of pairs, got"):
        RunFolder.open(tmp_path).num_same_person()
