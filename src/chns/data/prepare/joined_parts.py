"""Several files read as the one that they were cut from, without a second copy on disk."""

from __future__ import annotations

import bisect
import io
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO


class JoinedParts(io.RawIOBase):
    """A read-only, seekable file over the concatenation of others. One of them is open at a time.

    Args:
        parts: At least one, in order.
    """

    def __init__(self, parts: Sequence[Path]) -> None:
        super().__init__()
        self._parts = list(parts)
        self._starts = [0, *accumulate(part.stat().st_size for part in self._parts)]
        self._position = 0
        self._open: tuple[int, BinaryIO] | None = None

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return self._starts[-1]

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as any file does."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if origin + offset < 0:
            raise ValueError(f"position must be at least 0, got {origin + offset}.")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer, at most up to the end of a part."""
        if self._position >= self.size:
            return 0
        number = bisect.bisect_right(self._starts, self._position) - 1
        file = self._file(number)
        file.seek(self._position - self._starts[number])
        content = file.read(min(len(buffer), self._starts[number + 1] - self._position))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _file(self, number: int) -> BinaryIO:
        if self._open is None or self._open[0] != number:
            self._close_part()
            self._open = number, self._parts[number].open("rb", buffering=0)
        return self._open[1]

    def _close_part(self) -> None:
        if self._open is not None:
            self._open[1].close()
        self._open = None

    def close(self) -> None:
        """Close the part that is open."""
        self._close_part()
        super().close()
