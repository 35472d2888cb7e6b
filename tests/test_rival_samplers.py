"""Other ways to compose batches keep a batch's shape, and bring like speakers together."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from chns.sampling import BatchShape, HardBatches, StartAt

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "rival_samplers.py"
FAMILIES, MEMBERS, UTTERANCES = 10, 12, 3


@pytest.mark.parametrize(
    ("name", "settings"), [("WalkGroups", {"neighbours": 6}), ("BandwidthOrder", {}), ("CommunityGroups", {})]
)
def test_batches_have_their_shape_and_hold_more_of_a_family_than_random_ones(name, settings):
    if name == "CommunityGroups":
        pytest.importorskip("pymetis", reason="METIS comes with the extra benchmarks")
    rng = np.random.default_rng(0)
    family = np.repeat(np.arange(FAMILIES), MEMBERS)
    who = rng.normal(size=(FAMILIES, 8))[family] + 0.2 * rng.normal(size=(len(family), 8))
    labels = np.repeat(np.arange(len(family)), UTTERANCES)
    vectors = (who[labels] + 0.05 * rng.normal(size=(len(labels), 8))).astype(np.float32)
    groups = runpy.run_path(str(SCRIPT))[name](**settings)
    batches = HardBatches(
        labels,
        embed=lambda rows: vectors[rows],
        shape=BatchShape(8, 2, steps_per_epoch=20),
        groups=groups,
        schedule=StartAt(0),
        separate_same_person=False,
    )
    pairs_of_a_family = []
    for batch in batches:
        speakers = labels[batch]
        assert len(set(batch)) == 16
        assert sorted(np.unique(speakers, return_counts=True)[1]) == [2] * 8
        same = family[np.unique(speakers)][:, None] == family[np.unique(speakers)]
        pairs_of_a_family.append((same.sum() - 8) / (8 * 7))
    by_chance = (MEMBERS - 1) / (len(family) - 1)
    assert np.mean(pairs_of_a_family) > 3 * by_chance
