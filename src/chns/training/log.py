"""What is measured while a run trains, and where it is written: ``log.csv``, and a logger of the user's own."""

from __future__ import annotations

import csv
import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from chns.core import BoolArray, atomic_path, plain_disk_errors
from chns.data import Manifest, SpeakerCrops, corpora_of
from chns.encoders import SpeakerEncoder
from chns.evaluation import Embedder, VerificationMetrics, make_trials, resolve, score_trials, verification_metrics
from chns.training.step import StepResult

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
    "elapsed_seconds",
)


class MetricsLogger(Protocol):
    """What takes metrics: the loggers of Fabric and Lightning (TensorBoard, wandb, MLflow, ...), or one of your own."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Take what was measured at a step."""


class RunLog:
    """Rows of `COLUMNS`, each for one step; a value that was not measured at a step stays empty.

    ``elapsed_seconds`` is the time from the start of the training to that row, with all that happened between steps,
    but without the time between two sessions of a run that was stopped.

    Args:
        folder: Gets ``log.csv``.
        first_step: Rows after this step, which a run that was killed and now goes on had written, are dropped.
        logger: Is told every row too, and to ``finalize``, if it can, at the end.
    """

    def __init__(self, folder: Path, *, first_step: int, logger: MetricsLogger | None = None) -> None:
        path = folder / "log.csv"
        kept = [row for row in _rows(path) if int(row["step"]) <= first_step]
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
        self._path = path
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._logger = logger
        self._opened = time.perf_counter()
        self._elapsed_before = float((kept[-1].get("elapsed_seconds") or 0.0) if kept else 0.0)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with plain_disk_errors(self._path):  # what could not be written is tried again
            self._file.close()
        finalize = getattr(self._logger, "finalize", None)
        if finalize is not None:
            finalize("success" if error is None else "failed")

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write what was measured at a step.

        Args:
            step: Steps done since the start of the run.
            epoch: Epoch of that step.
            values: By column.
        """
        values = {**values, "elapsed_seconds": self._elapsed_before + time.perf_counter() - self._opened}
        with plain_disk_errors(self._path):
            self._writer.writerow({"step": step, "epoch": epoch, **{k: f"{v:.6g}" for k, v in values.items()}})
            self._file.flush()
        if self._logger is not None:
            self._logger.log_metrics({"epoch": float(epoch), **values}, step)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # The last line of a killed run may be cut short.
        return [row for row in csv.DictReader(file) if row["step"].isdigit() and None not in row.values()]


class Meter:
    """Averages between two lines of the log."""

    def __init__(self) -> None:
        self._loss_sum = torch.zeros(())
        self._steps = 0
        self._segments = 0
        self._wait_seconds = 0.0
        self._last: StepResult | None = None
        self._easy_sum = self._epoch_easy_sum = torch.zeros(())
        self._epoch_steps = 0
        self._since = self._idle_since = time.perf_counter()

    def restart_clock(self) -> None:
        """Leave out what happened between epochs."""
        self._since = self._idle_since = time.perf_counter()
        self._segments = 0
        self._wait_seconds = 0.0

    def data_arrived(self) -> None:
        """A batch is there: the time since the last step was spent waiting for it."""
        self._wait_seconds += time.perf_counter() - self._idle_since

    def step_done(self) -> None:
        """From here on, time is spent waiting for data."""
        self._idle_since = time.perf_counter()

    def add(self, result: StepResult) -> None:
        """Count a step; nothing is moved off the device."""
        self._loss_sum = self._loss_sum.to(result.loss.device) + result.loss
        easy = easy_anchor_share(result.embeddings, result.speaker_labels)
        self._easy_sum = self._easy_sum.to(easy.device) + easy
        self._epoch_easy_sum = self._epoch_easy_sum.to(easy.device) + easy
        self._steps += 1
        self._epoch_steps += 1
        self._segments += len(result.speaker_labels)
        self._last = result

    def read(self, embeddings: Tensor) -> dict[str, float]:
        """Averages since the last reading; of the last step, how hard its negatives were and where its time went.

        Args:
            embeddings: Of the last step's batch in evaluation mode, shape (N, dim). In training mode batch
                normalisation centres the embeddings of a batch, whose negatives are then equally far apart whoever
                they are.
        """
        assert self._last is not None
        seconds = time.perf_counter() - self._since
        mean, p95 = negative_similarity(embeddings, self._last.speaker_labels)
        values = {
            "loss": float(self._loss_sum) / self._steps,
            "easy_anchor_share": float(self._easy_sum) / self._steps,
            "negative_similarity_mean": mean,
            "negative_similarity_p95": p95,
            "segments_per_second": self._segments / seconds,
            "data_wait_share": self._wait_seconds / seconds,
            "encoder_seconds": self._last.encoder_seconds,
            "loss_seconds": self._last.loss_seconds,
        }
        self._loss_sum = self._easy_sum = torch.zeros(())
        self._steps = 0
        self.restart_clock()
        return values

    def read_epoch(self) -> float:
        """Mean share of easy anchors since the last reading of this kind."""
        share = float(self._epoch_easy_sum) / self._epoch_steps
        self._epoch_easy_sum = torch.zeros(())
        self._epoch_steps = 0
        return share

    def state_dict(self) -> dict[str, Any]:
        """The sums that a resumed run goes on with."""
        return {
            "loss_sum": self._loss_sum,
            "easy_sum": self._easy_sum,
            "steps": self._steps,
            "epoch_easy_sum": self._epoch_easy_sum,
            "epoch_steps": self._epoch_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved sums."""
        self._loss_sum, self._easy_sum, self._steps = state["loss_sum"], state["easy_sum"], state["steps"]
        self._epoch_easy_sum, self._epoch_steps = state["epoch_easy_sum"], state["epoch_steps"]

    @staticmethod
    def in_words(step: int, num_steps: int, epoch: int, values: Mapping[str, float]) -> str:
        """A line of the log for the screen."""
        return (
            f"step {step}/{num_steps}, epoch {epoch}: loss {values['loss']:.3f}, "
            f"hard ratio {values['hard_ratio']:g}, easy anchors {100 * values['easy_anchor_share']:.0f} %, "
            f"negatives {values['negative_similarity_mean']:.2f} (p95 {values['negative_similarity_p95']:.2f}), "
            f"{values['segments_per_second']:.0f} segments/s"
        )


def negative_similarity(embeddings: Tensor, speaker_labels: Tensor) -> tuple[float, float]:
    """How hard a batch is: mean and 95th percentile of the cosine between utterances of different speakers.

    Args:
        embeddings: Shape (N, dim).
        speaker_labels: Shape (N,), of at least two speakers.
    """
    normalised = F.normalize(embeddings.float(), dim=1)
    different = (speaker_labels[:, None] != speaker_labels[None]).triu()
    similarities = (normalised @ normalised.T)[different]
    rank = max(1, math.ceil(0.95 * len(similarities)))
    return float(similarities.mean()), float(similarities.kthvalue(rank).values)


@torch.no_grad()
def easy_anchor_share(embeddings: Tensor, speaker_labels: Tensor) -> Tensor:
    """Share of the anchors to whom all their own speaker's utterances are more similar than anybody else's.

    Such an anchor has little left to learn from its batch, whatever the loss and its temperature.

    Args:
        embeddings: Shape (N, dim).
        speaker_labels: Shape (N,), of at least two speakers.

    Returns:
        A scalar; 1 where no anchor has another utterance of its speaker.
    """
    normalised = F.normalize(embeddings.float(), dim=1)
    similarities = normalised @ normalised.T
    same = speaker_labels[:, None] == speaker_labels[None]
    nearest_other = similarities.masked_fill(same, -torch.inf).amax(dim=1)
    farthest_own = similarities.masked_fill(~same, torch.inf).fill_diagonal_(torch.inf).amin(dim=1)
    return (farthest_own > nearest_other).float().mean()


class Validated(NamedTuple):
    """What a validation came to.

    Attributes:
        metrics: Of all trials.
        eer_by_corpus: Of the trials within each corpus, as a fraction; empty if all speakers are of one.
    """

    metrics: VerificationMetrics
    eer_by_corpus: dict[str, float]


class Validation:
    """A fixed list of trials on held-out speakers, scored by the cosine of whole-utterance embeddings.

    Args:
        manifest: Utterances of speakers that are not in the training manifest.
        num_trials: Half of them targets; fewer if the manifest does not give as many.
        seed: Decides the trials.
        num_workers: Processes that decode.

    Raises:
        ValueError: If there are not two speakers, or no speaker has two utterances.
    """

    def __init__(self, manifest: Manifest, *, num_trials: int, seed: int, num_workers: int) -> None:
        sizes = np.bincount(manifest.speaker_labels)
        if len(sizes) < 2 or sizes.max() < 2:
            raise ValueError(
                "validation must have two speakers and a speaker with two utterances, "
                f"got {len(sizes)} speakers with at most {sizes.max(initial=0)} utterances."
            )
        half = num_trials // 2
        target_pairs = int((sizes * (sizes - 1) // 2).sum())
        nontarget_pairs = len(manifest) * (len(manifest) - 1) // 2 - target_pairs
        trials = make_trials(
            manifest,
            targets_per_speaker=max(1, half // len(sizes)),
            num_nontargets=min(half, nontarget_pairs),
            nontargets="random",
            seed=seed,
        )
        self._enrolment, self._test = resolve(trials, manifest)
        assert trials.is_target is not None
        self._is_target = trials.is_target
        self._manifest = manifest
        self._num_workers = num_workers
        self._within = self._trials_within_corpora()

    def measure(self, model: SpeakerEncoder, device: torch.device) -> Validated:
        """Embed the utterances and score the trials."""
        embedder = Embedder(model=model, device=device, num_workers=self._num_workers, sharded=True)
        scores = score_trials(embedder, self._manifest, self._enrolment, self._test)
        return Validated(
            verification_metrics(scores, self._is_target),
            {
                corpus: verification_metrics(scores[own], self._is_target[own]).eer
                for corpus, own in self._within.items()
            },
        )

    def _trials_within_corpora(self) -> dict[str, BoolArray]:
        """Trials whose sides are both of a corpus, by corpus, shape (trials,); one without both kinds is left out."""
        corpora = corpora_of(self._manifest.speakers)
        if corpora is None:
            return {}
        labels, of_speaker = self._manifest.speaker_labels, np.array(corpora)
        enrolment, test = of_speaker[labels[self._enrolment]], of_speaker[labels[self._test]]
        within = {corpus: (enrolment == corpus) & (test == corpus) for corpus in sorted(set(corpora))}
        return {corpus: own for corpus, own in within.items() if len(set(self._is_target[own].tolist())) == 2}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast steps are.

    Attributes:
        seconds_per_step: Their mean.
        wait_share: Share of it spent waiting for data.
        crops_per_second: Crops that one core decodes.
        memory: The most that was needed, in words.
    """

    seconds_per_step: float
    wait_share: float
    crops_per_second: float
    memory: str


_TIMED_CROPS, _TIMED_SECONDS = 500, 2.0


def crops_per_second(crops: SpeakerCrops) -> float:
    """Crops of utterances all over the corpus that one core decodes, from two seconds of them at most."""
    began = time.perf_counter()
    done = 0
    for row in range(0, len(crops), max(1, len(crops) // _TIMED_CROPS)):
        crops[row]
        done += 1
        if time.perf_counter() - began > _TIMED_SECONDS:
            break
    return done / (time.perf_counter() - began)


def peak_memory(device: torch.device) -> str:
    """The most memory needed so far, of a GPU its own; without the loader's processes."""
    if device.type == "cuda":
        return f"at most {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB of the GPU"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"at most {unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9:.1f} GB of memory"
