"""The training loop: random warm-up, then groups and the hard phase, in one run that can be resumed.

Everything random is a function of the seed and the position in the run, and the position is saved with the weights, so
a run that was killed and goes on ends with the same weights as one left alone (on the same kind of device). With
several processes each runs this loop on its slice of every batch; the first one writes the files.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Never

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from chns.core import NonFiniteError, average_buffers, percent, world_size, write_text
from chns.data import CropBatches, CropFeed, SpeakerCrops, as_floats
from chns.encoders import SpeakerEncoder
from chns.sampling import EpochSignals
from chns.training.log import Meter, MetricsLogger, RunLog, Speed, Validated, Validation, crops_per_second, peak_memory
from chns.training.plan import BatchPlan
from chns.training.state import LastEpochs, Stateful, StopRequest, load_training, save_training
from chns.training.step import FiniteWatch, TrainingStep, gradient_scaler

_log = logging.getLogger(__name__)

_MUCH_WAITING = 0.2  # of the time between two lines of the log
_RESTATING_SEGMENTS = 500  # of a few seconds each: of 200 on, the statistics are as good
_TIMED_STEPS, _MEASURED_SECONDS = 10, 60.0  # after which a run's length is told, and a measurement of speed ends


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How long a run is, what a step does, and when it is interrupted.

    Attributes:
        epochs: Epochs of the whole run.
        warmup_share: Share of all steps over which the learning rate rises.
        clip_norm: Largest norm of all gradients together, or None.
        log_every_steps: Steps between two lines of the log.
        checkpoint_every_steps: Steps between two checkpoints; one more at each epoch's end and when stopped.
        validate_every_epochs: Epochs between two validations; one more at the end.
        num_workers: Processes that decode.
        chunk_size: Segments embedded at a time, see `chns.training.step`; None for the whole batch.
        seed: Of crops, dropout and masking.
    """

    epochs: int
    warmup_share: float
    clip_norm: float | None
    log_every_steps: int
    checkpoint_every_steps: int
    validate_every_epochs: int
    num_workers: int
    chunk_size: int | None
    seed: int
    average_last: int = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """Where a run is written down, and what is measured for it.

    Attributes:
        folder: Gets the checkpoint, the clusters and the log.
        validation: Held-out speakers, or None.
        on_validation: Called in every process with what came out after each validation, and with None after the last
            epoch if there is no validation; the model is to be saved then.
        logger: Is told what ``log.csv`` is told, or None.
    """

    folder: Path
    validation: Validation | None
    on_validation: Callable[[Validated | None], None]
    logger: MetricsLogger | None = None


class Training:
    """A run of a number of epochs, from its start or from its last checkpoint.

    Args:
        fabric: Device and precision.
        model: Waveforms to embeddings; trained in place.
        loss: Of embeddings and speaker labels; its parameters are trained too. If it has a method ``set_progress``, it
            is told the share of the steps that are done before each one.
        make_optimizer: Makes the optimiser of a list of parameters.
        plan: Which batches each epoch trains on.
        crops: The training utterances.
        rhythm: How long, and when what is done.
        record: Where the run is written down.
    """

    def __init__(
        self,
        *,
        fabric: Fabric,
        model: SpeakerEncoder,
        loss: nn.Module,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        plan: BatchPlan,
        crops: SpeakerCrops,
        rhythm: Rhythm,
        record: Record,
    ) -> None:
        self._fabric = fabric
        self._loss = fabric.to_device(loss)
        self._set_progress: Callable[[float], None] | None = getattr(loss, "set_progress", None)
        parameters = [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
        optimizer = make_optimizer(parameters)
        self._parameters = parameters
        self._peak_rates = [group["lr"] for group in optimizer.param_groups]
        self._model, self._optimizer = fabric.setup(model, optimizer)
        for part in self._model.modules():
            if isinstance(part, DistributedDataParallel):  # else each forward pass has the first one's statistics
                part.broadcast_buffers = False
        self._compute_gradients = TrainingStep(
            fabric,
            self._model,
            self._loss,
            chunk_size=rhythm.chunk_size,
            seed=rhythm.seed,
            slice_sizes=plan.slice_sizes,
        )
        self._watch = FiniteWatch(fabric.device)
        self._plan = plan
        self._crops = crops
        self._rhythm = rhythm
        self._record = record
        self._step = 0
        self._meter = Meter()
        self._began, self._began_at = time.perf_counter(), 0
        self._timed_from = self._began
        self._lines_written, self._has_warned = 0, False
        self._parts: dict[str, Stateful] = {
            "model": self._model,
            "loss": self._loss,
            "optimizer": self._optimizer,
            "plan": plan,
            "meter": self._meter,
        }
        self._mean = None
        if rhythm.average_last > 1:
            self._mean = LastEpochs(model, first=rhythm.epochs - rhythm.average_last, last=rhythm.epochs - 1)
            self._parts["mean"] = self._mean
        self._scaler = gradient_scaler(fabric)
        if self._scaler is not None:
            self._parts["scaler"] = self._scaler

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self._rhythm.epochs * self._plan.steps_per_epoch

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self._record.folder / "training.pt"

    def run(self) -> None:
        """Train to the end.

        Raises:
            KeyboardInterrupt: After Ctrl-C or SIGTERM, once the step is finished and the checkpoint written.
            AudioError, FileNotFoundError: If a recording cannot be read; the last checkpoint stays.
            ModelFileError: If the checkpoint is damaged or of another run.
            NonFiniteError: If a loss or a gradient is NaN or infinite. The last checkpoint stays. On a CPU the training
                stops at that step; elsewhere it is noticed when the device is next waited for, at a line of the log,
                and nothing is saved in between.
        """
        if self.checkpoint.is_file():
            self._step = load_training(
                self.checkpoint, self._parts, num_steps=self.num_steps, steps_per_epoch=self._plan.steps_per_epoch
            )
            _log.info("going on from step %d of %d", self._step, self.num_steps)
        self._began, self._began_at = time.perf_counter(), self._step
        with (
            RunLog(self._record.folder, first_step=self._step, logger=self._record.logger)
            if self._writes
            else nullcontext() as log,
            logging_redirect_tqdm(),
            self._progress_bar() as progress,
            StopRequest() as stop,
            self._new_feed() as self._feed,
        ):
            for epoch in range(self._step // self._plan.steps_per_epoch, self._rhythm.epochs):
                self._train_epoch(epoch, log, progress, stop)
                average_buffers(self._model)
                if self._mean is not None:
                    self._mean.end_epoch(epoch)
                self._restate_if_due(epoch)
                validation_eer = self._validate_if_due(epoch, log)
                self._plan.end_epoch(epoch, EpochSignals(self._meter.read_epoch(), validation_eer))
                self._write_decisions()
                self._save()
                if epoch + 1 < self._rhythm.epochs and stop.is_made(self._fabric.device):
                    raise KeyboardInterrupt

    def measure(self, num_steps: int) -> Speed:
        """Take so many steps of the first epoch, or a minute of them, after a first one that starts all; write nothing.

        Raises:
            AudioError, FileNotFoundError: If a recording cannot be read.
        """
        self._model.train()
        seconds, waits = [], []
        with self._new_feed() as self._feed, closing(self._crops_of(self._requests(0, 0))) as batches:
            for _ in tqdm(range(min(num_steps + 1, self._plan.steps_per_epoch)), desc="measuring", disable=None):
                asked = self._now()
                waveforms, labels = next(batches)
                waits.append(self._now() - asked)
                self._train_step(0, waveforms, labels)
                seconds.append(self._now() - asked)
                if sum(seconds[1:]) > _MEASURED_SECONDS:
                    break
        timed = slice(1 if len(seconds) > 1 else 0, None)
        return Speed(
            seconds_per_step=float(np.mean(seconds[timed])),
            wait_share=sum(waits[timed]) / sum(seconds[timed]),
            crops_per_second=crops_per_second(self._crops),
            memory=peak_memory(self._fabric.device),
        )

    @property
    def _writes(self) -> bool:
        """Whether this is the process that writes files."""
        return bool(self._fabric.is_global_zero)

    def _progress_bar(self) -> tqdm[Never]:
        disable = not self._writes or None
        return tqdm(total=self.num_steps, initial=self._step, desc="training", unit="step", disable=disable)

    def _train_epoch(self, epoch: int, log: RunLog | None, progress: tqdm[Never], stop: StopRequest) -> None:
        first_step = self._step - epoch * self._plan.steps_per_epoch
        if first_step == 0 and self._plan.begin(epoch, self._model, self._fabric.device) and self._writes:
            self._plan.save_groups(self._record.folder)
            self._write_decisions()
        self._model.train()
        self._meter.restart_clock()
        for waveforms, labels in self._crops_of(self._requests(epoch, first_step)):
            self._meter.data_arrived()
            self._train_step(epoch, waveforms, labels)
            progress.update()
            self._tell_length()
            if self._is_logged(self._step):
                embeddings = self._compute_gradients.embeddings_in_evaluation(waveforms, labels)
                self._write_log(epoch, log, progress, embeddings)
            if self._step % self._plan.steps_per_epoch:  # the end of an epoch is saved after its validation
                self._save_or_stop(epoch, stop)
            self._meter.step_done()

    def _tell_length(self) -> None:
        """How long the run will take at the speed of its steps 2 to 10, and the memory it has needed."""
        if (done := self._step - self._began_at) == 1:  # which started the workers
            self._timed_from = self._now()
        if done != _TIMED_STEPS or not self._writes:
            return
        seconds = (self._now() - self._timed_from) / (_TIMED_STEPS - 1)
        left = timedelta(seconds=round(seconds * (self.num_steps - self._step)))
        _log.info(
            "after %d steps: %.2f s a step, %s for the %d that are left, without validation; %s",
            done, seconds, left, self.num_steps - self._step, peak_memory(self._fabric.device),
        )  # fmt: skip

    def _now(self) -> float:
        if self._fabric.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _is_logged(self, step: int) -> bool:
        """Whether a line of the log follows this step, counted from 1: every so many do, and the last."""
        return step % self._rhythm.log_every_steps == 0 or step == self.num_steps

    def _waits(self, step: int) -> bool:
        """Whether the device is waited for in this step, counted from 1: a GPU only where a value is read or saved."""
        saves = step % self._rhythm.checkpoint_every_steps == 0 or step % self._plan.steps_per_epoch == 0
        return self._fabric.device.type == "cpu" or self._is_logged(step) or saves

    def _write_log(self, epoch: int, log: RunLog | None, progress: tqdm[Never], embeddings: Tensor) -> None:
        values = {**self._meter.read(embeddings), **self._settings_now(epoch)}
        if log is not None:
            log.write(self._step, epoch, values)
        progress.set_postfix(
            epoch=epoch,
            loss=f"{values['loss']:.3f}",
            hard=f"{values['hard_ratio']:g}",
            easy=percent(values["easy_anchor_share"], 0),
            negatives=f"{values['negative_similarity_mean']:.2f}",
        )
        if progress.disable:
            elapsed = time.perf_counter() - self._began
            remaining = elapsed / (self._step - self._began_at) * (self.num_steps - self._step)
            words = self._meter.in_words(self._step, self.num_steps, epoch, values)
            times = (timedelta(seconds=round(seconds)) for seconds in (elapsed, remaining))
            _log.info("%s, %s elapsed, %s left", words, *times)
        self._warn_of_waiting(values["data_wait_share"])

    def _warn_of_waiting(self, share: float) -> None:
        """Say once that the encoder waits for data; not at the first line, which holds the start of the workers."""
        self._lines_written += 1
        if share < _MUCH_WAITING or self._lines_written < 2 or self._has_warned or not self._writes:
            return
        self._has_warned = True
        _log.warning(
            "the encoder waits for data %.0f %% of the time: raise data.num_workers, now %d, if there are cores to "
            "spare, or make decoding cheaper (`chns pack --format flac`, less augmentation).",
            100 * share,
            self._rhythm.num_workers,
        )

    def _save_or_stop(self, epoch: int, stop: StopRequest) -> None:
        if (world_size() == 1 or self._waits(self._step)) and stop.is_made(self._fabric.device):
            self._refuse_non_finite(epoch)
            self._save()
            raise KeyboardInterrupt
        if self._step % self._rhythm.checkpoint_every_steps == 0:
            self._save()

    def _requests(self, epoch: int, first_step: int) -> CropBatches:
        batches = self._plan.batches(epoch)
        batches.load_state_dict(batches.state_dict(step=first_step))
        return CropBatches(
            batches, seed=self._rhythm.seed, epoch=epoch, first_step=first_step, first_place=batches.first_place
        )

    def _new_feed(self) -> CropFeed:
        workers = self._rhythm.num_workers
        return CropFeed(self._crops, num_workers=workers, device=self._fabric.device, start_worker=StopRequest.outlive)

    def _crops_of(self, requests: CropBatches) -> Generator[tuple[Tensor, Tensor]]:
        for waveforms, labels in self._feed.batches(requests):
            yield as_floats(self._fabric.to_device(waveforms)), self._fabric.to_device(labels)

    def _train_step(self, epoch: int, waveforms: Tensor, labels: Tensor) -> None:
        rate = learning_rate_factor(self._step, self.num_steps, self._rhythm.warmup_share)
        for group, peak in zip(self._optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * rate
        if self._set_progress is not None:
            self._set_progress(self._step / self.num_steps)
        self._optimizer.zero_grad()
        timed = self._is_logged(self._step + 1)
        result = self._compute_gradients(waveforms, labels, step=self._step, timed=timed)
        largest = math.inf if self._rhythm.clip_norm is None else self._rhythm.clip_norm
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, largest)
        # Where scaling made a gradient too large, the scaler leaves the step out and halves its factor, down to 1.
        scale = None if self._scaler is None else self._scaler.scale(torch.ones((), device=norm.device))
        self._watch.note(self._step, result.loss, norm, scale=scale)
        if self._waits(self._step + 1):
            self._refuse_non_finite(epoch)
        self._optimizer.step()
        self._step += 1
        self._meter.add(result)

    def _refuse_non_finite(self, epoch: int) -> None:
        """If a step of this epoch was bad, name the batch, of several processes this one's part of it.

        Recordings that are themselves broken are named apart.
        """
        if (bad := self._watch.found()) is None:
            return
        self._optimizer.zero_grad()
        requests = next(iter(self._requests(epoch, bad.step - epoch * self._plan.steps_per_epoch)))
        names = [self._crops.manifest[request.utterance].name for request in requests]
        crops = self._crops.__getitems__(requests)
        broken = [name for name, (crop, _) in zip(names, crops, strict=True) if not bool(torch.isfinite(crop).all())]
        what, value = ("loss", bad.loss) if not math.isfinite(bad.loss) else ("norm of the gradients", bad.norm)
        cause = f" Not finite in themselves are {', '.join(broken)}." if broken else ""
        raise NonFiniteError(
            f"{what} must be finite, got {value} at step {bad.step + 1}, epoch {epoch}, of the utterances "
            f"{', '.join(names)}.{cause} Leave out what is broken, or lower optimizer.learning_rate or set "
            f"optimizer.clip_norm; the same command then goes on from the last checkpoint in {self._record.folder}."
        )

    def _settings_now(self, epoch: int) -> dict[str, float]:
        values = {"learning_rate": self._optimizer.param_groups[0]["lr"], "hard_ratio": self._plan.hard_ratio_at(epoch)}
        temperature = getattr(self._loss, "temperature", None)
        if isinstance(temperature, nn.Module):
            values["temperature"] = float(temperature().detach())
        return values

    def _is_evaluated(self, epoch: int) -> bool:
        """Whether the model is validated or finished after this epoch."""
        due = (epoch + 1) % self._rhythm.validate_every_epochs == 0 and self._record.validation is not None
        return due or epoch + 1 == self._rhythm.epochs

    def _restate_if_due(self, epoch: int) -> None:
        """After hard batches the running statistics are those of the last few groups: take them of random batches."""
        hard = self._plan.hard_ratio_at(epoch) > 0 and self._is_evaluated(epoch)
        if not hard or not self._compute_gradients.has_running_statistics:
            return
        batches, place = self._plan.random_batches(epoch, num_segments=_RESTATING_SEGMENTS)
        requests = CropBatches(batches, seed=self._rhythm.seed, epoch=epoch, first_place=place)
        self._compute_gradients.restate(self._crops_of(requests), step=self._step)
        average_buffers(self._model)

    def _validate_if_due(self, epoch: int, log: RunLog | None) -> float | None:
        """The EER on the held-out speakers, if it is measured after this epoch."""
        if not self._is_evaluated(epoch):
            return None
        if self._record.validation is None:
            self._record.on_validation(None)
            return None
        validated = self._record.validation.measure(self._model, self._fabric.device)
        metrics = validated.metrics
        values = {"validation_eer": metrics.eer}
        values |= {f"validation_min_dcf_{p}": cost for p, cost in metrics.min_dcf.items()}
        if log is not None:
            log.write(self._step, epoch, values)
        by_corpus = ", ".join(f"{corpus} {100 * eer:.2f} %" for corpus, eer in validated.eer_by_corpus.items())
        within = f" (within {by_corpus})" if by_corpus else ""
        _log.info("epoch %d: validation EER %.2f %%%s", epoch, 100 * metrics.eer, within)
        self._record.on_validation(validated)
        return metrics.eer

    def _write_decisions(self) -> None:
        """What the plan decided so far, one decision a line, and how many speakers may be one person."""
        if self._writes and self._plan.decisions:
            write_text(self._record.folder / "decisions.txt", "".join(f"{line}\n" for line in self._plan.decisions))
        if self._writes and self._plan.num_same_person is not None:
            pairs = json.dumps({"pairs": self._plan.num_same_person})
            write_text(self._record.folder / "same_person.json", f"{pairs}\n")

    def _save(self) -> None:
        average_buffers(self._model)
        if self._writes:
            save_training(self.checkpoint, self._parts, step=self._step, num_steps=self.num_steps)


def learning_rate_factor(step: int, num_steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate at a step (from 0): a linear rise, then half a cosine down to zero."""
    warmup_steps = warmup_share * num_steps
    if step + 1 < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step + 1 - warmup_steps) / max(1.0, num_steps + 1 - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))
