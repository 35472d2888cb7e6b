"""Part of something larger, as a file to read and seek in."""

from __future__ import annotations

import io
import os
from collections.abc import Callable


class Part(io.RawIOBase):
    """A file that lies inside another one.

    Args:
        fill: Reads into a buffer from a position inside the part; gives how much it has read, 0 at the end.
        length: Number of bytes.
        on_close: Called once, when nothing will be read any more.
    """

    def __init__(self, fill: Callable[[memoryview, int], int], length: int, *, on_close: Callable[[], None]) -> None:
        self._fill, self._length, self._on_close = fill, length, on_close
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; gives the new position, which is at least 0."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the length of the buffer, never beyond the part; gives how much."""
        wanted = max(0, min(len(buffer), self._length - self._position))
        got = self._fill(memoryview(buffer)[:wanted], self._position)
        self._position += got
        return got

    def close(self) -> None:
        """Close, once."""
        if not self.closed:
            super().close()
            self._on_close()
