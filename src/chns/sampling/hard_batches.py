"""The whole method over integer labels: random batches first, then hard ones from groups of classes that look alike.

Labels may stand for speakers, faces or sentences; all that is known of an utterance is its index and its embedding,
which a callable of the user's returns. Nothing here needs torch.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from chns.core import Float32Array, IntArray
from chns.sampling.batches import ClusterSpeakerBatches, NeighbourSpeakerBatches, Pooling, RandomSpeakerBatches
from chns.sampling.clusters import SpeakerClusters, cluster_speakers, derived_num_clusters
from chns.sampling.neighbours import SpeakerNeighbours, find_neighbours
from chns.sampling.same_person import persons_of, suspected_pairs
from chns.sampling.schedule import EpochSignals, Schedule, StartAt
from chns.sampling.speaker_batches import BatchShape, HardSpeakerBatches, SpeakerBatches, centroids_of, draw_per_speaker

_log = logging.getLogger(__name__)

Made = TypeVar("Made")
Groups = TypeVar("Groups", SpeakerClusters, SpeakerNeighbours)


class Grouping(Protocol[Groups]):
    """Makes groups of speakers from their centroids, and batches of the groups."""

    @property
    def kind(self) -> type[Groups]:
        """What the groups are."""

    def group(self, centroids: Float32Array, shape: BatchShape, *, encoder: str) -> Groups:
        """Find who sounds alike.

        Args:
            centroids: One a speaker, shape (speakers, dim).
            shape: Of the batches that are drawn from the groups, and the seed.
            encoder: Identity of the encoder, remembered in the result.
        """

    def batches(
        self, speaker_labels: npt.ArrayLike, groups: Groups, shape: BatchShape, *, persons: npt.ArrayLike | None
    ) -> HardSpeakerBatches:
        """The batch sampler."""


@dataclass(frozen=True)
class ClusterGroups:
    """k-means clusters, as in the paper.

    Args:
        num_clusters: How many; None for as many as give a batch the paper's number of clusters, see
            `chns.sampling.clusters.derived_num_clusters`.
        pooling: See `ClusterSpeakerBatches`.

    Examples:
        >>> from chns import BatchShape, ClusterGroups
        >>> import numpy as np
        >>> centroids = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
        >>> ClusterGroups().group(centroids, BatchShape(40, 2), encoder="mine").num_clusters  # 5.5 a batch
        28
    """

    num_clusters: int | None = None
    pooling: Pooling = "random"

    @property
    def kind(self) -> type[SpeakerClusters]:
        """Clusters."""
        return SpeakerClusters

    def group(self, centroids: Float32Array, shape: BatchShape, *, encoder: str) -> SpeakerClusters:
        """See `Grouping.group`."""
        number = self.num_clusters or derived_num_clusters(len(centroids), shape.speakers_per_batch)
        return cluster_speakers(centroids, num_clusters=number, seed=shape.seed, encoder=encoder)

    def batches(
        self,
        speaker_labels: npt.ArrayLike,
        groups: SpeakerClusters,
        shape: BatchShape,
        *,
        persons: npt.ArrayLike | None,
    ) -> ClusterSpeakerBatches:
        """See `Grouping.batches`."""
        return ClusterSpeakerBatches(speaker_labels, groups, shape, pooling=self.pooling, persons=persons)


@dataclass(frozen=True)
class NeighbourGroups:
    """The nearest neighbours of every speaker.

    Args:
        group_size: See `NeighbourSpeakerBatches`.
        band: See there; it is cut where there are fewer speakers.

    Examples:
        >>> from chns import BatchShape, NeighbourGroups
        >>> import numpy as np
        >>> centroids = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
        >>> NeighbourGroups().group(centroids, BatchShape(50, 2), encoder="mine").indices.shape
        (200, 16)
    """

    group_size: int = 8
    band: tuple[int, int] = (0, 16)

    @property
    def kind(self) -> type[SpeakerNeighbours]:
        """Neighbours."""
        return SpeakerNeighbours

    def group(self, centroids: Float32Array, shape: BatchShape, *, encoder: str) -> SpeakerNeighbours:
        """See `Grouping.group`."""
        num_neighbours = min(self.band[1], len(centroids) - 1)
        return find_neighbours(centroids, num_neighbours=num_neighbours, seed=shape.seed, encoder=encoder)

    def batches(
        self,
        speaker_labels: npt.ArrayLike,
        groups: SpeakerNeighbours,
        shape: BatchShape,
        *,
        persons: npt.ArrayLike | None,
    ) -> NeighbourSpeakerBatches:
        """See `Grouping.batches`."""
        band = (self.band[0], min(self.band[1], groups.indices.shape[1]))
        return NeighbourSpeakerBatches(
            speaker_labels, groups, shape, group_size=self.group_size, band=band, persons=persons
        )


def _each_for_itself(make: Callable[[], Made]) -> Made:
    return make()


class HardBatches:
    """Warm-up, groups of similar speakers, hard batches, and new groups when due: the method of the paper in a loop.

    Iteration yields the batches of one epoch, lists of this rank's utterance indices; it also serves as the
    ``batch_sampler`` of a ``torch.utils.data.DataLoader``. An iteration after a finished one is of the next epoch and
    begins it where `begin` was not called, so a training engine that knows nothing of this class trains on the right
    batches too; only a schedule that looks at what is observed needs `end`.

    Groups are made before the first epoch whose hard ratio is above 0, and every ``schedule.regroup_every`` epochs from
    then on: some utterances of each speaker are embedded, each speaker's embeddings are averaged and normalised, and
    these centroids are grouped. Speakers who may be one person under two names are found when groups are first made,
    before training has pushed them apart, and kept out of each other's batches.

    Everything drawn is a function of the seed, the epoch and the step. Ranks agree without talking if ``embed`` returns
    the same numbers on each; where it may not (different devices), ``share`` settles it.

    Args:
        labels: Speaker of each utterance, shape (utterances,), non-negative integers of any size.
        embed: Embeds utterances: indices of shape (n,), int64, to embeddings of shape (n, dim), in their order, not
            normalised. Called on every rank with the same indices; it may split the work, if each rank returns all.
        shape: Speakers, utterances and batches, the seed, and which slice of a batch is this process's.
        groups: How speakers are grouped, and drawn from the groups.
        schedule: When batches are hard, and how hard; None for random batches throughout.
        separate_same_person: Whether speakers who may be one person are kept apart.
        utterances_per_centroid: Utterances that are embedded of each speaker; all, if there are fewer.
        share: Called on every rank with a function that makes the groups, it returns what rank 0 made, on each. By
            default each rank makes them for itself.

    Attributes:
        decisions: What was decided so far and why, in words.
        groups: The groups in use, or None.

    Raises:
        ValueError: If labels are not a non-empty vector of non-negative integers, or a setting is out of range.

    Source:
        Masztalski et al., Interspeech 2025, where the hard phase starts at epoch 2 with 10 utterances a centroid.

    Examples:
        >>> import numpy as np
        >>> from chns import BatchShape, ClusterGroups, HardBatches, StartAt
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(200).repeat(10)  # 200 speakers x 10 utterances
        >>> embeddings = rng.normal(size=(200, 16)).repeat(10, axis=0) + rng.normal(size=(2000, 16))
        >>> batches = HardBatches(
        ...     labels,
        ...     embed=lambda rows: embeddings[rows],  # the network as it is now
        ...     shape=BatchShape(40, 2, steps_per_epoch=5),
        ...     groups=ClusterGroups(10),
        ...     schedule=StartAt(epoch=1),
        ... )
        >>> for epoch in range(2):
        ...     grouped = batches.begin(epoch)
        ...     sizes = [len(rows) for rows in batches]  # here a step of training
        ...     print(epoch, grouped, batches.hard_ratio_at(epoch), sizes)
        0 False 0.0 [80, 80, 80, 80, 80]
        1 True 1.0 [80, 80, 80, 80, 80]
    """

    def __init__(
        self,
        labels: npt.ArrayLike,
        *,
        embed: Callable[[IntArray], Float32Array],
        shape: BatchShape = BatchShape(),  # noqa: B008  # frozen
        groups: Grouping[Any] = ClusterGroups(),  # frozen
        schedule: Schedule | None = StartAt(),  # noqa: B008  # frozen
        separate_same_person: bool = True,
        utterances_per_centroid: int = 10,
        share: Callable[[Callable[[], Any]], Any] = _each_for_itself,
    ) -> None:
        if utterances_per_centroid < 1:
            raise ValueError(f"utterances_per_centroid must be at least 1, got {utterances_per_centroid}.")
        self._random = RandomSpeakerBatches(labels, shape)
        self._labels = np.asarray(labels)
        self._distinct, self._speaker_rows = np.unique(self._labels, return_inverse=True)
        self._embed = embed
        self._grouping = groups
        self._schedule = schedule
        self._separate_same_person = separate_same_person
        self._utterances_per_centroid = utterances_per_centroid
        self._share = share
        self._hard: HardSpeakerBatches | None = None
        self._current: SpeakerBatches | None = None  # None where the next epoch has not begun
        self._next_epoch = 0
        self._persons: IntArray | None = None
        self.grouped_at: int | None = None
        self.groups: SpeakerClusters | SpeakerNeighbours | None = None
        self.decisions: list[str] = []

    @property
    def epoch(self) -> int:
        """The epoch that is being iterated; before and between iterations, the last one or that of `set_epoch`."""
        return self._next_epoch if self._current is None else self._current.epoch

    @property
    def steps_per_epoch(self) -> int:
        """Batches of every epoch."""
        return self._random.steps_per_epoch

    @property
    def first_place(self) -> int:
        """Place, in the global batch, of the first utterance of this rank's slice."""
        return self._random.first_place

    @property
    def num_speakers(self) -> int:
        """Number of different labels."""
        return len(self._distinct)

    def hard_ratio_at(self, epoch: int) -> float:
        """Share of hard speakers in the batches of an epoch that begins now."""
        return self._schedule.hard_ratio_at(epoch) if self._schedule else 0.0

    def begin(self, epoch: int, *, encoder: Callable[[], str] = str) -> bool:
        """Let the next iteration yield ``epoch``, and group the speakers first if that is due.

        After a state that was saved in the midst of this epoch was loaded, the iteration goes on from there.

        Args:
            epoch: Number of the epoch, from 0.
            encoder: Asked for the identity of the encoder behind ``embed`` when groups are made, which remember it.

        Returns:
            Whether new groups were made.

        Raises:
            ValueError: If the embeddings cannot be grouped: a wrong shape, zero or not finite, or fewer speakers than
                clusters.
        """
        reason = self._due(epoch)
        if reason is not None:
            self._note(epoch, f"{reason}: grouping {self.num_speakers:,} speakers by their centroids")
            self._make_groups(epoch, encoder)
        if self._current is None or self._current.epoch != epoch or reason is not None:
            self._current = self.sampler_at(epoch)
        self._current.set_epoch(epoch)
        return reason is not None

    def end(self, epoch: int, *, easy_anchor_share: float, validation_eer: float | None = None) -> None:
        """Let the schedule take note of an epoch; to be called after its last batch and before a state is saved.

        Args:
            epoch: The epoch that ends.
            easy_anchor_share: Mean over its batches, see `EpochSignals`.
            validation_eer: EER on held-out speakers after the epoch, a fraction; None if it was not measured.
        """
        if self._schedule is not None:
            for decision in self._schedule.end_epoch(epoch, EpochSignals(easy_anchor_share, validation_eer)):
                self._note(epoch, decision)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration yield ``epoch``, and `begin` it then; for engines that call this by themselves."""
        if self._current is not None and self._current.epoch == epoch:
            self._current.set_epoch(epoch)
        else:
            self._current, self._next_epoch = None, epoch

    def __len__(self) -> int:
        """Number of batches the next iteration yields: an epoch, or what a loaded state leaves of it."""
        return self.steps_per_epoch if self._current is None else len(self._current)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch that was begun, or of the next one."""
        if self._current is None:
            self.begin(self._next_epoch)
        elif self._current.finished:
            self.begin(self._current.epoch + 1)
        assert self._current is not None
        return iter(self._current)

    def sampler_at(self, epoch: int) -> RandomSpeakerBatches | HardSpeakerBatches:
        """The batch sampler of an epoch with the groups in use, at its first step.

        Epochs share their samplers, so this moves an iteration that is going on; it is for a loop that keeps the
        position by itself instead of iterating this object.
        """
        sampler: RandomSpeakerBatches | HardSpeakerBatches = self._random
        ratio = self.hard_ratio_at(epoch)
        if self._hard is not None and ratio > 0:
            self._hard.hard_ratio = ratio
            sampler = self._hard
        sampler.go_to(epoch)
        return sampler

    def random_at(self, epoch: int) -> RandomSpeakerBatches:
        """Random batches of an epoch, whatever the schedule says, at the first step; shared as of `sampler_at`."""
        self._random.go_to(epoch)
        return self._random

    def use(self, groups: SpeakerClusters | SpeakerNeighbours, *, epoch: int = 0) -> None:
        """Draw from groups that were made elsewhere, as if they had been made before ``epoch``.

        Args:
            groups: Of all speakers: row i is that of the i-th lowest label.
            epoch: From which ``schedule.regroup_every`` counts.

        Raises:
            ValueError: If the groups are not of the kind that is drawn from, or of too few speakers.
        """
        if not isinstance(groups, self._grouping.kind):
            raise ValueError(
                f"groups must be {self._grouping.kind.__name__}, which {type(self._grouping).__name__} draws from, got "
                f"{type(groups).__name__}."
            )
        self._hard = self._grouping.batches(self._labels, groups, self._random.shape, persons=self._persons)
        self.groups, self.grouped_at = groups, epoch

    def state_dict(self, *, step: int | None = None) -> dict[str, Any]:
        """What later batches depend on, in plain values: for JSON, or ``torch.load`` with ``weights_only``.

        Args:
            step: Number of batches of this epoch that were *used*, for a loader with workers; see
                `SpeakerBatches.state_dict`.
        """
        position = self._current.state_dict(step=step) if self._current else {"epoch": self._next_epoch, "step": 0}
        return {
            **self._random.identity(),
            **position,
            "decisions": list(self.decisions),
            "grouped_at": self.grouped_at,
            "groups": None if self.groups is None else {k: _encoded(v) for k, v in asdict(self.groups).items()},
            "persons": _encoded(self._persons),
            "schedule": self._schedule.state_dict() if self._schedule else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken; after the last step of an epoch that is the start of the next one.

        Raises:
            ValueError: If the state is of other settings or other data, whose batches would differ.
        """
        self._random.require_same(state)
        self.decisions = list(state["decisions"])
        self._persons = _decoded(state["persons"])
        self._hard, self.groups, self.grouped_at = None, None, None
        if state["groups"] is not None:
            fields = {name: _decoded(value) for name, value in state["groups"].items()}
            self.use(self._grouping.kind(**fields), epoch=state["grouped_at"])
        if self._schedule is not None:
            self._schedule.load_state_dict(state["schedule"])
        finished, step = divmod(state["step"], self.steps_per_epoch)
        self._current, self._next_epoch = None, state["epoch"] + finished
        if step:
            self._current = self.sampler_at(state["epoch"])
            self._current.load_state_dict(state)

    def _due(self, epoch: int) -> str | None:
        """Why groups are to be made before this epoch; None if they are not."""
        if self._schedule is None or self.hard_ratio_at(epoch) == 0:
            return None
        if self.grouped_at is None:
            return "the hard phase begins"
        if self._schedule.regroup_every and epoch - self.grouped_at >= self._schedule.regroup_every:
            return f"{epoch - self.grouped_at} epochs have passed"
        return None

    def _make_groups(self, epoch: int, encoder: Callable[[], str]) -> None:
        rng = np.random.default_rng(self._random.shape.seed + epoch)
        chosen = draw_per_speaker(self._speaker_rows, self._utterances_per_centroid, rng)
        embeddings = np.asarray(self._embed(chosen), np.float32)
        if embeddings.ndim != 2 or len(embeddings) != len(chosen):
            raise ValueError(
                f"embed must return an embedding for each of {len(chosen)} utterances, shape ({len(chosen)}, dim), got "
                f"{embeddings.shape}."
            )
        rows = self._speaker_rows[chosen]
        if self._separate_same_person and self._persons is None:
            self._persons, decision = self._share(lambda: self._search_persons(embeddings, rows))
            self._note(epoch, decision)
        centroids = centroids_of(embeddings, rows, self.num_speakers)
        shape = self._random.shape
        self.use(self._share(lambda: self._grouping.group(centroids, shape, encoder=encoder())), epoch=epoch)

    def _search_persons(self, embeddings: Float32Array, speaker_rows: IntArray) -> tuple[IntArray, str]:
        """The person behind each speaker, and what was found in words."""
        persons = persons_of(self.num_speakers, suspected_pairs(embeddings, speaker_rows))
        num_doubles = self.num_speakers - len(np.unique(persons))
        usable = np.isin(self._distinct, self._random.speakers)
        if len(np.unique(persons[usable])) < self._random.shape.speakers_per_batch:
            nobody = np.arange(self.num_speakers)
            return nobody, f"{num_doubles:,} speakers seem to be others: too many to be true, so none is kept apart"
        return persons, f"{num_doubles:,} speakers may be others under a second name: they never meet"

    def _note(self, epoch: int, decision: str) -> None:
        self.decisions.append(f"epoch {epoch}: {decision}")
        _log.info("%s", self.decisions[-1])


def _encoded(value: Any) -> Any:
    """An array as plain values; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    return {
        "dtype": value.dtype.name,
        "shape": list(value.shape),
        "base64": base64.b64encode(value.tobytes()).decode("ascii"),
    }


def _decoded(value: Any) -> Any:
    """What `_encoded` was given."""
    if not isinstance(value, Mapping):
        return value
    flat = np.frombuffer(base64.b64decode(value["base64"]), value["dtype"])
    return flat.reshape(value["shape"]).copy()
