r"""Lines and rows of text files: one rule for all lists, tables, trials and manifests.

A byte order mark is no text. Lines end in ``\n``, ``\r\n`` or ``\r``, and blank ones are nothing, wherever they
are. Fields between tabs are as they stand: the format has no quotes, and a sentence may begin with one; only where
every field of the header is quoted (pandas can write so) are all. Fields between other delimiters may be quoted, and
then hold delimiters and line breaks. A quote that swallows whole rows is an error.

A line has at most 1 MiB, and a compressed list may grow 200-fold at most when it is unpacked (JSON lines of real
corpora grow 10 to 40-fold).
"""

from __future__ import annotations

import csv
import gzip
import math
import reprlib
import zlib
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Literal

from chns.core import ManifestError

_MAX_LINE_BYTES = 2**20
_MAX_GROWTH, _ALWAYS_ALLOWED_BYTES = 200, 2**24


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Every line of a UTF-8 file (``.gz``: compressed), and its place as ``file:line``; a line ends in a line feed.

    Raises:
        FileNotFoundError: If there is no such file.
        ManifestError: If a line is too long or not UTF-8, or the compressed content is damaged or grows too much.
    """
    if not path.is_file():
        raise FileNotFoundError(f"list must be a file, got {path}.")
    for number, line in enumerate(_byte_lines(path), start=1):
        place = f"{path}:{number}"
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8"), place
        except UnicodeDecodeError as error:
            raise ManifestError(
                f"line must be UTF-8, got {reprlib.repr(line)} in {place}. Convert the file, for example with iconv."
            ) from error


def _byte_lines(path: Path) -> Iterator[bytes]:
    """Lines as bytes: in Latin-1 a character is a byte, so the text reader only finds the ends of all three kinds."""
    compressed = path.suffix == ".gz"
    allowed = max(path.stat().st_size * _MAX_GROWTH, _ALWAYS_ALLOWED_BYTES) if compressed else math.inf
    number = num_bytes = 0
    with gzip.open(path) if compressed else path.open("rb") as file, TextIOWrapper(file, "latin-1") as text:
        while line := _line(text, f"{path}:{number + 1}"):
            number += 1
            num_bytes += len(line)
            if num_bytes > allowed:
                raise ManifestError(
                    f"compressed list must grow at most {_MAX_GROWTH}-fold when unpacked, got more in "
                    f"{path}:{number}. Unpack it yourself if you trust it."
                )
            yield line


def _line(file: TextIOWrapper, place: str) -> bytes:
    try:
        line = file.readline(_MAX_LINE_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ManifestError(f"list must be whole gzip data, got {error} in {place}. Copy it again.") from error
    if len(line) > _MAX_LINE_BYTES:
        raise ManifestError(
            f"line must have at most {_MAX_LINE_BYTES} bytes, got more in {place}. Is this file a list at all?"
        )
    return line.encode("latin-1")


def split_rows(path: Path, *, delimiter: str = ",") -> Iterator[tuple[list[str], str]]:
    """Fields of every row that is not blank, and the place of its first line; space around a field does not count.

    Raises:
        ValueError: If the delimiter is not one character.
        FileNotFoundError: If there is no such file.
        ManifestError: For the reasons of ``text_lines``, or if a quote is not closed, stands in the wrong place, or
            swallows whole rows.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"delimiter must be one character, not a quote or a line break, got {delimiter!r}.")
    taken: list[tuple[str, str]] = []

    def lines() -> Iterator[str]:
        for line, place in text_lines(path):
            taken.append((line, place))
            yield line

    has_quotes = delimiter != "\t" or _has_quoted_header(path)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
    reader = csv.reader(lines(), delimiter=delimiter, quoting=quoting, skipinitialspace=delimiter != "\t", strict=True)
    num_fields = None
    while True:
        taken.clear()
        try:
            fields = [field.strip() for field in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            place = taken[0][1] if taken else str(path)
            raise ManifestError(f"line must be CSV, got {error} in {place}. Correct the quotes.") from error
        num_fields = num_fields or len(fields)
        whole = _swallowed(taken, num_fields, delimiter)
        if whole:
            raise ManifestError(
                f"quoted field must not hold whole rows, got that of {whole[0]} within the field that a quote opens in "
                f"{taken[0][1]}. Close the quote, double it, or remove it."
            )
        if any(fields):
            yield fields, taken[0][1]


def _swallowed(lines: Sequence[tuple[str, str]], num_fields: int, delimiter: str) -> list[str]:
    """Places of lines within a row that are whole rows by their delimiters.

    The last line is one only if the first is too: what follows a quoted line break may hold all delimiters of the row.
    """
    is_row = [num_fields > 1 and line.count(delimiter) == num_fields - 1 for line, _ in lines]
    within = range(1, len(lines) if is_row[0] else len(lines) - 1)
    return [lines[number][1] for number in within if is_row[number]]


def _has_quoted_header(path: Path) -> bool:
    header = next((line.strip("\r\n") for line, _ in text_lines(path) if line.strip()), "")
    return all(len(field) > 1 and field[0] == field[-1] == '"' for field in header.split("\t"))
