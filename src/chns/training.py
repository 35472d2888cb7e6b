"""The training loop: random warm-up, then centroids, clusters and the hard phase, in one run that can be resumed.

Everything random is a function of the seed and the position in the run, and the position is saved with the weights, so
a run that was killed and goes on ends with the same weights as one left alone (on the same kind of device). With
several processes each runs this loop on its slice of every batch; the first one writes the files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Never

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from chns.batch_plan import BatchPlan
from chns.data.dataset import CropBatches, SpeakerCrops, plain_worker_errors
from chns.distributed import average_buffers
from chns.encoders import SpeakerEncoder
from chns.evaluation.metrics import VerificationMetrics
from chns.files import atomic_path
from chns.learning_rate import learning_rate_factor
from chns.meter import Meter
from chns.run_log import RunLog
from chns.sampling.schedule import EpochSignals
from chns.stopping import StopRequest
from chns.training_checkpoint import Stateful, load_training, save_training
from chns.training_step import TrainingStep
from chns.validation import Validation

_log = logging.getLogger(__name__)


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
        validation: Held-out speakers, or None.
        folder: Gets the checkpoint, the clusters and the log.
        epochs: Epochs of the whole run.
        warmup_share: Share of all steps over which the learning rate rises.
        clip_norm: Largest norm of all gradients together, or None.
        log_every_steps: Steps between two lines of the log.
        checkpoint_every_steps: Steps between two checkpoints; one more at each epoch's end and when stopped.
        validate_every_epochs: Epochs between two validations; one more at the end.
        num_workers: Processes that decode.
        chunk_size: Segments embedded at a time, see `chns.training_step`; None for the whole batch.
        seed: Of crops, dropout and masking.
        on_validation: Called in every process with the metrics after each validation, and with None after the last
            epoch if there is no validation; the model is to be saved then.
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
        validation: Validation | None,
        folder: Path,
        epochs: int,
        warmup_share: float,
        clip_norm: float | None,
        log_every_steps: int,
        checkpoint_every_steps: int,
        validate_every_epochs: int,
        num_workers: int,
        chunk_size: int | None,
        seed: int,
        on_validation: Callable[[VerificationMetrics | None], None],
    ) -> None:
        self._fabric = fabric
        self._loss = fabric.to_device(loss)
        self._set_progress: Callable[[float], None] | None = getattr(loss, "set_progress", None)
        parameters = [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
        optimizer = make_optimizer(parameters)
        self._parameters = parameters
        self._peak_rates = [group["lr"] for group in optimizer.param_groups]
        self._model, self._optimizer = fabric.setup(model, optimizer)
        self._compute_gradients = TrainingStep(fabric, self._model, self._loss, chunk_size=chunk_size, seed=seed)
        self._plan = plan
        self._crops = crops
        self._validation = validation
        self._folder = folder
        self._epochs = epochs
        self._warmup_share = warmup_share
        self._clip_norm = clip_norm
        self._log_every_steps = log_every_steps
        self._checkpoint_every_steps = checkpoint_every_steps
        self._validate_every_epochs = validate_every_epochs
        self._num_workers = num_workers
        self._seed = seed
        self._on_validation = on_validation
        self._step = 0
        self._meter = Meter()
        self._parts: dict[str, Stateful] = {
            "model": self._model,
            "loss": self._loss,
            "optimizer": self._optimizer,
            "plan": plan,
            "meter": self._meter,
        }

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self._epochs * self._plan.steps_per_epoch

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self._folder / "training.pt"

    def run(self) -> None:
        """Train to the end.

        Raises:
            KeyboardInterrupt: After Ctrl-C or SIGTERM, once the step is finished and the checkpoint written.
            AudioError, FileNotFoundError: If a recording cannot be read; the last checkpoint stays.
            ModelFileError: If the checkpoint is damaged or of another run.
        """
        if self.checkpoint.is_file():
            self._step = load_training(self.checkpoint, self._parts, num_steps=self.num_steps)
            _log.info("going on from step %d of %d", self._step, self.num_steps)
        with (
            RunLog(self._folder, first_step=self._step) if self._writes else nullcontext() as log,
            logging_redirect_tqdm(),
            self._progress_bar() as progress,
            StopRequest() as stop,
        ):
            for epoch in range(self._step // self._plan.steps_per_epoch, self._epochs):
                self._train_epoch(epoch, log, progress, stop)
                average_buffers(self._model)
                validation_eer = self._validate_if_due(epoch, log)
                self._plan.end_epoch(epoch, EpochSignals(self._meter.read_epoch(), validation_eer))
                self._write_decisions()
                self._save()
                if epoch + 1 < self._epochs and stop.is_made(self._fabric.device):
                    raise KeyboardInterrupt

    @property
    def _writes(self) -> bool:
        """Whether this is the process that writes files."""
        return bool(self._fabric.is_global_zero)

    def _progress_bar(self) -> tqdm[Never]:
        hidden = None if self._writes else True
        return tqdm(total=self.num_steps, initial=self._step, desc="training", unit="step", disable=hidden)

    def _train_epoch(self, epoch: int, log: RunLog | None, progress: tqdm[Never], stop: StopRequest) -> None:
        first_step = self._step - epoch * self._plan.steps_per_epoch
        if first_step == 0 and self._plan.begin(epoch, self._model, self._fabric.device) and self._writes:
            self._plan.save_groups(self._folder)
            self._write_decisions()
        self._model.train()
        self._meter.restart_clock()
        for waveforms, labels in self._batches(epoch, first_step):
            self._meter.data_arrived()
            self._train_step(waveforms, labels)
            progress.update()
            if self._step % self._log_every_steps == 0:
                self._write_log(epoch, log, progress)
            if self._step % self._plan.steps_per_epoch:  # the end of an epoch is saved after its validation
                self._save_or_stop(stop)
            self._meter.step_done()

    def _write_log(self, epoch: int, log: RunLog | None, progress: tqdm[Never]) -> None:
        values = {**self._meter.read(), **self._settings_now(epoch)}
        if log is not None:
            log.write(self._step, epoch, values)
        progress.set_postfix(epoch=epoch, loss=f"{values['loss']:.3f}")
        if progress.disable:
            _log.info("%s", _line(self._step, self.num_steps, epoch, values))

    def _save_or_stop(self, stop: StopRequest) -> None:
        if stop.is_made(self._fabric.device):
            self._save()
            raise KeyboardInterrupt
        if self._step % self._checkpoint_every_steps == 0:
            self._save()

    def _batches(self, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self._plan.batches(epoch)
        batches.load_state_dict(batches.state_dict(step=first_step))
        requests = CropBatches(
            batches, seed=self._seed, epoch=epoch, first_step=first_step, first_place=batches.first_place
        )
        loader = DataLoader(
            self._crops,
            batch_sampler=requests,
            num_workers=self._num_workers,
            pin_memory=self._fabric.device.type == "cuda",
        )
        with plain_worker_errors():
            for waveforms, labels in loader:
                yield self._fabric.to_device(waveforms), self._fabric.to_device(labels)

    def _train_step(self, waveforms: Tensor, labels: Tensor) -> None:
        rate = learning_rate_factor(self._step, self.num_steps, self._warmup_share)
        for group, peak in zip(self._optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * rate
        if self._set_progress is not None:
            self._set_progress(self._step / self.num_steps)
        self._optimizer.zero_grad()
        timed = (self._step + 1) % self._log_every_steps == 0
        result = self._compute_gradients(waveforms, labels, step=self._step, timed=timed)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimizer.step()
        self._step += 1
        self._meter.add(result)

    def _settings_now(self, epoch: int) -> dict[str, float]:
        values = {"learning_rate": self._optimizer.param_groups[0]["lr"], "hard_ratio": self._plan.hard_ratio_at(epoch)}
        temperature = getattr(self._loss, "temperature", None)
        if isinstance(temperature, nn.Module):
            values["temperature"] = float(temperature().detach())
        return values

    def _validate_if_due(self, epoch: int, log: RunLog | None) -> float | None:
        """The EER on the held-out speakers, if it is measured after this epoch."""
        last = epoch + 1 == self._epochs
        if self._validation is None:
            if last:
                self._on_validation(None)
            return None
        if not last and (epoch + 1) % self._validate_every_epochs:
            return None
        metrics = self._validation.measure(self._model, self._fabric.device)
        values = {"validation_eer": metrics.eer}
        values |= {f"validation_min_dcf_{p}": cost for p, cost in metrics.min_dcf.items()}
        if log is not None:
            log.write(self._step, epoch, values)
        _log.info("epoch %d: validation EER %.2f %%", epoch, 100 * metrics.eer)
        self._on_validation(metrics)
        return metrics.eer

    def _write_decisions(self) -> None:
        """What the plan decided so far, one decision a line."""
        if self._writes and self._plan.decisions:
            with atomic_path(self._folder / "decisions.txt") as temporary:
                temporary.write_text("".join(f"{line}\n" for line in self._plan.decisions), encoding="utf-8")

    def _save(self) -> None:
        if self._writes:
            save_training(self.checkpoint, self._parts, step=self._step, num_steps=self.num_steps)


def _line(step: int, num_steps: int, epoch: int, values: dict[str, float]) -> str:
    return (
        f"step {step}/{num_steps}, epoch {epoch}: loss {values['loss']:.3f}, "
        f"negatives {values['negative_similarity_mean']:.2f} (p95 {values['negative_similarity_p95']:.2f}), "
        f"{values['segments_per_second']:.0f} segments/s"
    )
