"""Lists of strangers: lines, JSON, values and paths."""

import gzip
import json
import re

import numpy as np
import pytest

from chns.core.errors import ManifestError
from chns.data.audio import write_audio
from chns.data.corpora.listed import columns_of, json_lines, number_of, relative_path, scan_list, text_lines, text_of
from chns.data.corpora.scan import Candidate


def test_lines_have_their_places_and_no_byte_order_mark(tmp_path):
    path = tmp_path / "l.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\ntwo")
    assert list(text_lines(path)) == [("one\n", f"{path}:1"), ("\n", f"{path}:2"), ("two", f"{path}:3")]


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"list must be a file, got .*none"):
        list(text_lines(tmp_path / "none"))


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "l").write_bytes(b"good\n\xff" + b"x" * 1_000 + b"\n")
    with pytest.raises(ManifestError, match=r"line must be UTF-8, got b'\\xffx.{,40} in .*l:2\. Convert") as error:
        list(text_lines(tmp_path / "l"))
    assert len(str(error.value)) < 300


def test_a_huge_line_is_refused_before_it_fills_the_memory(tmp_path):
    (tmp_path / "l").write_bytes(b"good\n" + b"x" * (2**20 + 1))
    with pytest.raises(ManifestError, match=r"line must have at most 1048576 bytes, got more in .*l:2"):
        list(text_lines(tmp_path / "l"))


def test_a_compressed_list_reads_like_a_plain_one(tmp_path):
    (tmp_path / "l.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    assert [line for line, _ in text_lines(tmp_path / "l.gz")] == ["one\n", "two\n"]


def test_a_gzip_bomb_is_stopped(tmp_path):
    line = b" " * 2**19 + b"\n"
    (tmp_path / "l.gz").write_bytes(gzip.compress(line * 64))
    read = []
    with pytest.raises(ManifestError, match=r"must grow at most 200-fold when unpacked, got more in .*l\.gz:\d+"):
        read.extend(len(line) for line, _ in text_lines(tmp_path / "l.gz"))
    assert sum(read) <= 2**24


def test_a_list_that_compresses_as_lists_do_is_no_bomb(tmp_path):
    line = np.random.default_rng(0).bytes(2**18).hex().encode() + b"\n"
    (tmp_path / "l.gz").write_bytes(gzip.compress(line * 40, 1))
    assert len(line) * 40 > 2**24
    assert sum(1 for _ in text_lines(tmp_path / "l.gz")) == 40


@pytest.mark.parametrize("damage", ["cut", "plain", "overwritten"])
def test_damaged_gzip_is_named(tmp_path, damage):
    whole = gzip.compress(json.dumps(list(range(500))).encode())
    damaged = {"cut": whole[:-20], "plain": b"plain text\n", "overwritten": whole[:30] + b"x" * 40}
    (tmp_path / "l.gz").write_bytes(damaged[damage])
    with pytest.raises(ManifestError, match=r"list must be whole gzip data, got .* in .*l\.gz:1\. Copy it again"):
        list(text_lines(tmp_path / "l.gz"))


def test_blank_lines_between_json_do_not_count(tmp_path):
    (tmp_path / "l").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert list(json_lines(tmp_path / "l")) == [({"a": 1}, f"{tmp_path / 'l'}:1"), ({"a": 2}, f"{tmp_path / 'l'}:3")]


@pytest.mark.parametrize("line", ["{", "[1]", '"text"', "shards_000.tar", "[" * 100_000, "1" * 5_000, '{"a": 1},'])
def test_a_line_that_is_not_a_json_object_is_named(tmp_path, line):
    (tmp_path / "l").write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(ManifestError, match=r"line must be one JSON object, got .* in .*l:2") as error:
        list(json_lines(tmp_path / "l"))
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("value", [None, "", True, 1.5, ["a"]])
def test_text_must_be_text(value):
    with pytest.raises(
        ManifestError, match=rf"spk must be text that is not empty, got {re.escape(repr(value))} in l:1"
    ):
        text_of({"spk": value}, "spk", "l:1")


def test_a_missing_key_is_named_with_those_that_are_there():
    with pytest.raises(ManifestError, match=r"spk must be text .*, got only the keys \['key', 'wav'\] in l:1"):
        text_of({"wav": "a", "key": "b"}, "spk", "l:1")


def test_a_whole_number_is_a_name():
    assert text_of({"label": 17}, "label", "l:1") == "17"


@pytest.mark.parametrize("value", ["x", -1, "nan", float("inf"), True, [1], 10**400])
def test_a_time_must_be_a_number_from_0(value):
    with pytest.raises(ManifestError, match=r"offset must be a number from 0, got .* in l:1\. Correct the list"):
        number_of({"offset": value}, "offset", "l:1")


def test_a_time_may_be_missing():
    assert [number_of(entry, "offset", "l:1") for entry in ({}, {"offset": None}, {"offset": ""})] == [None] * 3


def test_what_else_is_text_is_kept_on_one_line():
    entry = {"key": "u", "genre": "pop", "text": "two\nlines", "n": 3, "none": "", "path": "x", "offset_seconds": "9"}
    assert columns_of(entry, without=["key"]) == {"genre": "pop", "text": "two lines"}


@pytest.mark.parametrize("path", ["../1.wav", "/etc/passwd", "x/../../1.wav", ".", ""])
def test_a_path_outside_the_root_is_refused(tmp_path, path):
    with pytest.raises(ManifestError, match=r"path must stay inside .*, got .* in l:1\. .*--root"):
        relative_path(path, tmp_path, "l:1")


@pytest.mark.parametrize("command", ["touch x |", "touch x|", "cat a.wav | touch x | \t"])
def test_a_command_is_refused(tmp_path, command):
    with pytest.raises(
        ManifestError, match=r"recording must be a file, got the command .* in l:1\. Commands are never"
    ):
        relative_path(command, tmp_path, "l:1")


def test_an_utterance_is_listed_once(tmp_path):
    candidates = [Candidate("u", "s", "a.wav", place="l:1"), Candidate("u", "s", "b.wav", place="l:2")]
    with pytest.raises(ManifestError, match=r"utterance must be there once, got 'u' again in l:2\. Rename"):
        scan_list(candidates, root=tmp_path)


def test_a_list_cannot_make_a_column_a_line(tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros(16_000), sample_rate_hz=16_000)
    candidates = [Candidate(f"u{n}", "s", "a.wav", columns={f"c{n}": "x"}) for n in range(65)]
    assert len(scan_list(candidates[:64], root=tmp_path).manifest.column_names) == 6 + 64
    with pytest.raises(ManifestError, match=r"further columns must be at most 64, got 65\. Remove some"):
        scan_list(candidates, root=tmp_path)
