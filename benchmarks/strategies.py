"""The strategies that the experiments on batches compare, by name: the library's and others' (rival_samplers.py).

Not a benchmark by itself. Each is a function of the epoch in which a fixed hard phase begins.
"""

from collections.abc import Callable
from typing import Any

from rival_samplers import BandwidthOrder, CeilingLoss, CommunityGroups, CrossBatchMemory, PrototypeGroups, WalkGroups
from torch import nn
from vector_training import Plan, Strategy

from chns.losses import AAMSoftmaxLoss, HSCLLoss
from chns.sampling import ClusterGroups, NeighbourGroups, StartAt, StartWhenEasy


def begins(share: float, plan: Plan) -> int:
    """The epoch before which this share of the steps is made."""
    return round(share * plan.steps / plan.steps_per_epoch)


def _hard(
    groups: Any,
    *,
    guard: bool = False,
    loss: Callable[[int, int], nn.Module] | None = None,
    regroup: int = 0,
    ratio: float = 1.0,
    ramp: int = 0,
) -> Callable[[int], Strategy]:
    def make(start: int) -> Strategy:
        def batches() -> dict[str, Any]:
            schedule = StartAt(start, hard_ratio=ratio, ramp_epochs=ramp, regroup_every=regroup)
            return {"groups": groups, "schedule": schedule, "separate_same_person": guard}

        return Strategy(batches=batches, loss=loss) if loss else Strategy(batches=batches)

    return make


def _auto(**thresholds: Any) -> Callable[[int], Strategy]:
    def make(start: int) -> Strategy:  # noqa: ARG001
        return Strategy(batches=lambda: {"groups": NeighbourGroups(), "schedule": StartWhenEasy(**thresholds)})

    return make


def _hscl(speakers: int, dim: int) -> nn.Module:  # noqa: ARG001
    return HSCLLoss()


def _aam(speakers: int, dim: int) -> nn.Module:
    return AAMSoftmaxLoss(speakers, dim)


def _prototypes(start: int) -> Strategy:
    heads: list[nn.Module] = []

    def head(speakers: int, dim: int) -> nn.Module:
        heads.append(_aam(speakers, dim))
        return heads[-1]

    return _hard(PrototypeGroups(heads=heads), loss=head, regroup=5)(start)


STRATEGIES = {
    # The paper's, and the library's
    "random": lambda start: Strategy(),  # noqa: ARG005
    "hscl": lambda start: Strategy(loss=_hscl),  # noqa: ARG005
    "aam_softmax": lambda start: Strategy(loss=_aam),  # noqa: ARG005
    "chns": _hard(ClusterGroups(50)),
    "chns_half": _hard(ClusterGroups(50), ratio=0.5),
    "chns_hscl": _hard(ClusterGroups(50), loss=_hscl),
    "derived": _hard(ClusterGroups()),
    "neighbours": _hard(NeighbourGroups()),
    "neighbours_half": _hard(NeighbourGroups(), ratio=0.5),
    "neighbours_fresh": _hard(NeighbourGroups(), regroup=5),
    "neighbours_hscl": _hard(NeighbourGroups(), loss=_hscl),
    "auto": _auto(),
    # One suspect each
    "guard": _hard(NeighbourGroups(), guard=True),
    "band": _hard(NeighbourGroups(band=(8, 48))),
    "wide": _hard(NeighbourGroups(group_size=4, band=(0, 64))),
    "pairs": _hard(NeighbourGroups(group_size=2, band=(0, 32))),
    # Others'
    "walk": _hard(WalkGroups(), regroup=5),
    "bandwidth": _hard(BandwidthOrder(), regroup=5),
    "communities": _hard(CommunityGroups()),
    "aam_neighbours": _hard(NeighbourGroups(), loss=_aam),
    "aam_prototypes": _prototypes,
    "ceiling": _hard(NeighbourGroups(), loss=lambda s, d: CeilingLoss()),  # noqa: ARG005
    "memory": lambda start: Strategy(loss=lambda s, d: CrossBatchMemory(d)),  # noqa: ARG005
}
