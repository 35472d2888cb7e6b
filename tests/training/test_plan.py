"""Warm-up, groups of similar speakers and hard phase of a plan."""

import numpy as np
import pytest
import torch

from chns.bundle.bundle import weights_digest
from chns.data.manifest import Manifest
from chns.encoders import EcapaTdnn, SpeakerEncoder
from chns.evaluation.embedder import Embedder
from chns.features import LogMel
from chns.sampling import (
    BatchShape,
    ClusterGroups,
    ClusterSpeakerBatches,
    NeighbourGroups,
    NeighbourSpeakerBatches,
    RandomSpeakerBatches,
    SpeakerClusters,
    SpeakerNeighbours,
    StartAt,
    StartWhenEasy,
    cluster_speakers,
)
from chns.sampling.schedule import EpochSignals
from chns.training.plan import BatchPlan, CentroidCrops

CPU = torch.device("cpu")
CLUSTERS = ClusterGroups(3)
NEIGHBOURS = NeighbourGroups(3, band=(0, 4))
SHAPE = BatchShape(6, 2, steps_per_epoch=4, seed=1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpeakerEncoder(LogMel(), EcapaTdnn(channels=16, aggregation_channels=24, embedding_dim=8)).eval()


def plan_of(manifest_path, schedule, groups=CLUSTERS, *, separate_same_person=False):
    return BatchPlan(
        Manifest.read(manifest_path),
        shape=SHAPE,
        groups=groups,
        schedule=schedule,
        separate_same_person=separate_same_person,
        crops=CentroidCrops(utterances_per_speaker=2, crop_seconds=0.5),
    )


def test_without_a_hard_phase_all_batches_are_random(hum_manifest, model):
    plan = plan_of(hum_manifest, None)
    for epoch in range(4):
        assert not plan.begin(epoch, model, CPU)
        assert isinstance(plan.batches(epoch), RandomSpeakerBatches)
        assert plan.hard_ratio_at(epoch) == 0.0
        plan.end_epoch(epoch, EpochSignals(1.0, 0.1))
    assert plan.decisions == []


@pytest.mark.parametrize(
    ("grouping", "sampler"), [(CLUSTERS, ClusterSpeakerBatches), (NEIGHBOURS, NeighbourSpeakerBatches)]
)
def test_batches_are_random_until_the_hard_phase_and_hard_from_then_on(hum_manifest, model, grouping, sampler):
    plan = plan_of(hum_manifest, StartAt(1, hard_ratio=0.8, ramp_epochs=1), groups=grouping)
    kinds, ratios = [], []
    for epoch in range(4):
        plan.begin(epoch, model, CPU)
        batches = plan.batches(epoch)
        assert len(list(batches)) == 4
        kinds.append(type(batches))
        ratios.append(getattr(batches, "hard_ratio", 0.0))
    assert kinds == [RandomSpeakerBatches] + [sampler] * 3
    assert ratios == [0.0, 0.4, 0.8, 0.8]
    assert plan.decisions == ["epoch 1: the hard phase begins: grouping 20 speakers by their centroids"]


def test_random_batches_are_had_in_the_hard_phase_too_as_many_as_hold_so_many_segments(hum_manifest, model):
    plan = plan_of(hum_manifest, StartAt(0))
    plan.begin(0, model, CPU)
    hard = list(plan.batches(2))
    random = RandomSpeakerBatches(Manifest.read(hum_manifest).speaker_labels, SHAPE)
    random.set_epoch(2)
    every = list(random)
    segments = len(every[0])
    for wanted, number in ((1, 1), (segments, 1), (segments + 1, 2), (100 * segments, len(every))):
        assert plan.random_batches(2, num_segments=wanted) == (every[:number], 0)
    assert list(plan.batches(2)) == hard != every


def test_groups_remember_the_encoder_and_are_refreshed(hum_manifest, model):
    plan = plan_of(hum_manifest, StartAt(1, regroup_every=2))
    made = [plan.begin(epoch, model, CPU) for epoch in range(6)]
    assert made == [False, True, False, True, False, True]
    assert plan.groups.encoder == weights_digest(model.encoder)
    assert plan.groups.num_clusters == 3
    assert plan.decisions[-1] == "epoch 5: 2 epochs have passed: grouping 20 speakers by their centroids"


def test_groups_and_batches_are_those_of_the_steps_taken_one_by_one(hum_manifest, model):
    plan = plan_of(hum_manifest, StartAt(1, hard_ratio=0.5))
    plan.begin(1, model, CPU)
    manifest = Manifest.read(hum_manifest)
    centroids = Embedder(model=model).centroids(manifest, utterances_per_speaker=2, crop_seconds=0.5, seed=1 + 1)
    clusters = cluster_speakers(centroids, num_clusters=3, seed=1)
    np.testing.assert_array_equal(plan.groups.labels, clusters.labels)
    batches = ClusterSpeakerBatches(manifest.speaker_labels, clusters, SHAPE, hard_ratio=0.5)
    batches.set_epoch(1)
    assert list(plan.batches(1)) == list(batches)


@pytest.mark.parametrize("grouping", [CLUSTERS, NEIGHBOURS])
def test_suspected_doubles_never_meet(hum_manifest, model, grouping, monkeypatch):
    monkeypatch.setattr("chns.sampling.hard_batches.persons_of", lambda num_speakers, _: np.arange(num_speakers) // 2)
    plan = plan_of(hum_manifest, StartAt(0), groups=grouping, separate_same_person=True)
    plan.begin(0, model, CPU)
    assert "epoch 0: 10 speakers may be others under a second name: they never meet" in plan.decisions
    labels = Manifest.read(hum_manifest).speaker_labels
    restored = plan_of(hum_manifest, StartAt(0), groups=grouping, separate_same_person=True)
    restored.load_state_dict(plan.state_dict())
    for one in (plan, restored):
        for batch in one.batches(0):
            assert len({label // 2 for label in labels[batch].tolist()}) == 6


def test_a_search_that_suspects_nearly_everybody_keeps_nobody_apart(hum_manifest, model, monkeypatch):
    monkeypatch.setattr("chns.sampling.hard_batches.persons_of", lambda num_speakers, _: np.arange(num_speakers) // 4)
    plan = plan_of(hum_manifest, StartAt(0), separate_same_person=True)
    plan.begin(0, model, CPU)
    assert "epoch 0: 15 speakers seem to be others: too many to be true, so none is kept apart" in plan.decisions
    assert len(list(plan.batches(0))) == 4


@pytest.mark.parametrize(("grouping", "kind"), [(CLUSTERS, SpeakerClusters), (NEIGHBOURS, SpeakerNeighbours)])
def test_a_restored_plan_goes_on_alike(hum_manifest, model, grouping, kind, tmp_path):
    def fresh():
        phase = StartWhenEasy(easy_share_low=0.1, easy_share_high=0.6, step=0.25, regroup_every=1)
        return plan_of(hum_manifest, phase, grouping)

    plan = fresh()
    plan.end_epoch(0, EpochSignals(0.95, None))
    plan.begin(1, model, CPU)
    path = tmp_path / "state.pt"
    torch.save(plan.state_dict(), path)
    restored = fresh()
    restored.load_state_dict(torch.load(path, weights_only=True))
    assert isinstance(restored.groups, kind)
    assert list(restored.batches(1)) == list(plan.batches(1))
    for one in (plan, restored):
        one.end_epoch(1, EpochSignals(0.95, None))
        assert one.begin(2, model, CPU)
    assert restored.decisions == plan.decisions
    assert list(restored.batches(2)) == list(plan.batches(2))


def test_the_state_of_a_plan_that_has_not_begun_is_restored_too(hum_manifest):
    plan = plan_of(hum_manifest, StartAt(0))
    plan.load_state_dict(plan_of(hum_manifest, StartAt(0)).state_dict())
    assert plan.groups is None


def test_batches_are_random_again_when_the_hard_phase_gives_up(hum_manifest, model):
    plan = plan_of(hum_manifest, StartWhenEasy())
    plan.end_epoch(0, EpochSignals(0.95, None))
    plan.begin(1, model, CPU)
    assert isinstance(plan.batches(1), ClusterSpeakerBatches)
    plan.end_epoch(1, EpochSignals(0.1, None))
    assert not plan.begin(2, model, CPU)
    assert isinstance(plan.batches(2), RandomSpeakerBatches)


@pytest.mark.parametrize(("grouping", "folder"), [(CLUSTERS, "clusters"), (NEIGHBOURS, "neighbours")])
def test_groups_are_kept_by_kind_and_epoch(hum_manifest, model, grouping, folder, tmp_path):
    plan = plan_of(hum_manifest, StartAt(2), groups=grouping)
    plan.begin(2, model, CPU)
    plan.save_groups(tmp_path)
    path = tmp_path / folder / "epoch-0002.safetensors"
    assert type(plan.groups).load(path).encoder == plan.groups.encoder
