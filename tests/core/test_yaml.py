"""YAML and numbers from strangers: what is small is read, what would grow is refused before anything is made of it."""

import os

import pytest
import yaml

from chns.core import ConfigError, files
from chns.core.files import bounded_text, number, read_yaml, require_small_yaml


def test_a_number_is_written_as_programs_write_it():
    assert [number(text) for text in ("1", "-0.5", "1e-3", "inf")] == [1.0, -0.5, 0.001, float("inf")]
    for text in ("1_000", "\u0661"):
        with pytest.raises(ValueError, match=rf"^number must be written with the digits 0 to 9, got {text!r}\.$"):
            number(text)


def test_a_small_text_is_read_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Zo\u00eb", encoding="utf-8")
    assert bounded_text(path, most_bytes=4) == "Zo\u00eb"
    with pytest.raises(ConfigError, match=r"^file must be at most 3 bytes, got 4 in .*a\.txt\.$"):
        bounded_text(path, most_bytes=3)
    path.write_bytes(b" " * 2**20)
    assert len(bounded_text(path)) == 2**20
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ConfigError, match=r"^file must be at most 1,048,576 bytes, got 1,048,577 in"):
        bounded_text(path)


def test_what_is_no_text_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # whose end never comes
    with pytest.raises(ConfigError, match=r"^file must be a regular one, got .*pipe\.$"):
        bounded_text(tmp_path / "pipe")
    (tmp_path / "a.txt").write_bytes(b"Zo\xeb")
    with pytest.raises(
        ConfigError, match=r"^file must be UTF-8 text, got unexpected end of data at byte 2 in .*a\.txt\.$"
    ):
        bounded_text(tmp_path / "a.txt")


def test_yaml_is_read_with_its_aliases(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x [1, two]\nb: *x\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, "two"], "b": [1, "two"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "while parsing a flow"),
        ("a: &x [*x]", "alias in YAML must stand outside"),
        ("[a]: 1", "unhashable"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        (f"a: 0x{'f' * 4000}", "value in YAML must be at most 3,000"),
        ("a: 0001-00-00", "month must be in"),
    ],
)
def test_yaml_that_makes_no_plain_values_is_refused(tmp_path, text, reason):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"^YAML must be well-formed and small, got .*a\.yaml \(.*{reason}"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a", 1),
        ("[1, 2, 3]", 4),
        ("{a: 1, b: [2, 3]}", 1 + 3 + 3),
        ("[&x [1, 2], *x]", 1 + 3 + 3),
        ("[&x 1, *x, *x]", 4),
        ("[*x, *y]", 1),  # which the loader refuses, as they name nothing
        ("{a: &x {b: [1]}, c: &y [*x, *x], d: *y}", 1 + 1 + 4 + 1 + 9 + 1 + 9),
    ],
)
def test_values_are_counted_with_aliases_followed(monkeypatch, text, values):
    monkeypatch.setattr(files, "_MOST_VALUES", values)
    require_small_yaml(text)
    monkeypatch.setattr(files, "_MOST_VALUES", values - 1)
    told = rf"^YAML must hold at most {values - 1} values with aliases followed, got more\.$"
    with pytest.raises(ConfigError, match=told):
        require_small_yaml(text)


def test_yaml_of_a_few_bytes_that_unfolds_is_refused_also_inside_a_text():
    lines = ["x0: &x0 [a, b, c, d, e, f, g, h, i, j]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 9)]
    for text in ("\n".join(lines), "a: |\n" + "\n".join(f"  {line}" for line in lines)):
        with pytest.raises(ConfigError, match="YAML must hold at most 100,000 values with aliases followed, got more"):
            require_small_yaml(text)


@pytest.mark.parametrize("text", ["R&D * 2", "a: '& [*'", "a: x & y * z", "a: '&'", "a: '*'"])
def test_a_text_that_only_looks_like_aliases_is_a_text(text):
    require_small_yaml(text)


def test_the_quick_loader_reads_where_there_is_one(monkeypatch):
    assert files._safe_loader() is yaml.CSafeLoader
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert files._safe_loader() is yaml.SafeLoader


def test_an_alias_inside_what_it_names_is_refused():
    for text in ("a: &x [*x]", "a: &x {b: [1, {c: *x}]}"):
        with pytest.raises(ConfigError, match=r"^alias in YAML must stand outside of what it names, got \*x\.$"):
            require_small_yaml(text)
    with pytest.raises(ConfigError, match=rf"got \*{'x' * 100}\.$"):
        require_small_yaml(f"a: &{'x' * 200} [*{'x' * 200}]")


def test_yaml_has_a_greatest_length_depth_and_value():
    require_small_yaml("#" * 2**20)
    with pytest.raises(ConfigError, match=r"^YAML must be at most 1,048,576 characters, got 1,048,577\.$"):
        require_small_yaml("#" * (2**20 + 1))
    require_small_yaml("[" * 50 + "]" * 50)
    with pytest.raises(ConfigError, match=r"^YAML must be nested at most 50 deep, got more\.$"):
        require_small_yaml("[" * 51 + "]" * 51)
    require_small_yaml("1" * 3_000)
    for text in (f"a: {'1' * 3_001}", f"? {'1' * 3_001}\n: 1"):
        with pytest.raises(
            ConfigError, match=r"^value in YAML must be at most 3,000 characters, got '1{200}' and 2,801 more"
        ):
            require_small_yaml(text)


@pytest.mark.parametrize("text", ["class_path: os.system", "a: '{class_path: os.system}'"])
def test_yaml_names_no_code(text):
    with pytest.raises(ConfigError, match=r"^YAML must name classes by `factory`, got class_path in '.*class_path"):
        require_small_yaml(text)
