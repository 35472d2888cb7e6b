"""What a run writes down while it trains: ``log.csv`` for programs, TensorBoard for the eye."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

from chns.files import atomic_path

COLUMNS = (
    "step",
    "epoch",
    "loss",
    "temperature",
    "learning_rate",
    "hard_ratio",
    "easy_anchor_share",
    "negative_similarity_mean",
    "negative_similarity_p95",
    "segments_per_second",
    "data_wait_share",
    "encoder_seconds",
    "loss_seconds",
    "validation_eer",
    "validation_min_dcf_0.01",
    "validation_min_dcf_0.05",
)


class RunLog:
    """Rows of `COLUMNS`, each for one step; a value that was not measured at a step stays empty.

    Args:
        folder: Gets ``log.csv`` and a folder ``tensorboard``.
        first_step: Rows after this step, which a run that was killed and now goes on had written, are dropped.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        path = folder / "log.csv"
        kept = [row for row in _rows(path) if int(row["step"]) <= first_step]
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write what was measured at a step.

        Args:
            step: Steps done since the start of the run.
            epoch: Epoch of that step.
            values: By column.
        """
        self._writer.writerow({"step": step, "epoch": epoch, **{k: f"{v:.6g}" for k, v in values.items()}})
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # The last line of a killed run may be cut short.
        return [row for row in csv.DictReader(file) if row["step"].isdigit() and None not in row.values()]
