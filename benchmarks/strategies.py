"""The strategies that the experiments on batches compare, by name: the library's and others' (rival_samplers.py).

Not a benchmark by itself. Each is a function of the epoch in which a fixed hard phase begins.
"""

from collections.abc import Callable
from typing import Any

from rival_samplers import BandwidthOrder, CommunityGroups, PrototypeGroups, WalkGroups
from vector_training import Plan, Strategy

from chns.sampling import ClusterGroups, NeighbourGroups, StartAt, StartWhenEasy


def begins(share: float, plan: Plan) -> int:
    """The epoch before which this share of the steps is made."""
    return round(share * plan.steps / plan.steps_per_epoch)


def _random(loss: str) -> Callable[[int], Strategy]:
    return lambda start: Strategy(loss=loss)  # noqa: ARG005


def _hard(
    groups: Any, *, loss: str = "supcon", guard: bool = False, regroup: int = 0, ratio: float = 1.0, ramp: int = 0
) -> Callable[[int], Strategy]:
    def make(start: int) -> Strategy:
        def batches(head: Any) -> dict[str, Any]:
            schedule = StartAt(start, hard_ratio=ratio, ramp_epochs=ramp, regroup_every=regroup)
            found = groups(head=head) if groups is PrototypeGroups else groups
            return {"groups": found, "schedule": schedule, "separate_same_person": guard}

        return Strategy(batches=batches, loss=loss)

    return make


def _auto(
    groups: Any = NeighbourGroups(),  # noqa: B008  # frozen
    *,
    validated: bool = False,
    **thresholds: Any,
) -> Callable[[int], Strategy]:
    thresholds = {"start_easy_share": 0.9, **thresholds}
    return lambda start: Strategy(  # noqa: ARG005
        batches=lambda head: {"groups": groups, "schedule": StartWhenEasy(**thresholds)},  # noqa: ARG005
        validated=validated,
    )


STRATEGIES = {
    # The paper's, and the library's
    "random": _random("supcon"),
    "hscl": _random("hscl"),
    "aam_softmax": _random("aam_softmax"),
    "chns": _hard(ClusterGroups(50)),
    "chns_half": _hard(ClusterGroups(50), ratio=0.5),
    "chns_hscl": _hard(ClusterGroups(50), loss="hscl"),
    "derived": _hard(ClusterGroups()),
    "neighbours": _hard(NeighbourGroups()),
    "neighbours_half": _hard(NeighbourGroups(), ratio=0.5),
    "neighbours_fresh": _hard(NeighbourGroups(), regroup=3),
    "neighbours_hscl": _hard(NeighbourGroups(), loss="hscl"),
    "auto": _auto(),  # as in most of docs/results, from 90 % easy anchors on; the library's is auto_80
    "auto_pairs": _auto(NeighbourGroups(group_size=2, band=(0, 32))),
    "auto_validated": _auto(validated=True),
    "auto_half": _auto(hard_ratio=0.5),
    "auto_half_pairs": _auto(NeighbourGroups(group_size=2, band=(0, 32)), hard_ratio=0.5),
    "auto_80": _auto(start_easy_share=0.8),
    "auto_80_70": _auto(start_easy_share=0.8, easy_share_high=0.7),
    "auto_70": _auto(start_easy_share=0.7, easy_share_high=0.7),
    # One suspect each
    "guard": _hard(NeighbourGroups(), guard=True),
    "band": _hard(NeighbourGroups(band=(8, 48))),
    "wide": _hard(NeighbourGroups(group_size=4, band=(0, 64))),
    "pairs": _hard(NeighbourGroups(group_size=2, band=(0, 32))),
    # Others'
    "walk": _hard(WalkGroups(), regroup=3),
    "bandwidth": _hard(BandwidthOrder(), regroup=3),
    "communities": _hard(CommunityGroups()),
    "aam_neighbours": _hard(NeighbourGroups(), loss="aam_softmax"),
    "aam_prototypes": _hard(PrototypeGroups, loss="aam_softmax", regroup=3),
    "ceiling": _hard(NeighbourGroups(), loss="ceiling"),
    "memory": _random("memory"),
}
