"""Warm-up, clustering and hard phase of a plan."""

import pytest
import torch

from chns.batch_plan import BatchPlan
from chns.checkpoint import weights_digest
from chns.data.manifest import Manifest
from chns.encoders import EcapaTdnn, SpeakerEncoder
from chns.features import LogMel
from chns.sampling import ClusterSpeakerBatches, HardPhaseSchedule, RandomSpeakerBatches


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpeakerEncoder(LogMel(), EcapaTdnn(channels=16, aggregation_channels=24, embedding_dim=8)).eval()


def plan_of(manifest_path, schedule, **changes):
    settings = {
        "speakers_per_batch": 6,
        "utterances_per_speaker": 2,
        "steps_per_epoch": 4,
        "num_clusters": 3,
        "pooling": "random",
        "utterances_per_centroid": 2,
        "centroid_crop_seconds": 0.5,
        "seed": 1,
        "num_workers": 0,
    }
    return BatchPlan(Manifest.read(manifest_path), schedule=schedule, **{**settings, **changes})


def test_without_a_schedule_all_batches_are_random(hum_manifest, model):
    plan = plan_of(hum_manifest, None)
    for epoch in range(4):
        assert not plan.begin(epoch, model, torch.device("cpu"))
        assert isinstance(plan.batches(epoch), RandomSpeakerBatches)
        assert plan.hard_ratio_at(epoch) == 0.0


def test_batches_are_random_until_the_hard_phase_and_clustered_from_then_on(hum_manifest, model):
    plan = plan_of(hum_manifest, HardPhaseSchedule(start_epoch=1, hard_ratio=0.8, ramp_epochs=1))
    kinds, ratios = [], []
    for epoch in range(4):
        plan.begin(epoch, model, torch.device("cpu"))
        batches = plan.batches(epoch)
        assert len(list(batches)) == 4
        kinds.append(type(batches))
        ratios.append(getattr(batches, "hard_ratio", 0.0))
    assert kinds == [RandomSpeakerBatches] + [ClusterSpeakerBatches] * 3
    assert ratios == [0.0, 0.4, 0.8, 0.8]


def test_clusters_remember_the_encoder_and_are_refreshed(hum_manifest, model):
    plan = plan_of(hum_manifest, HardPhaseSchedule(start_epoch=1, refresh_every=2))
    made = [plan.begin(epoch, model, torch.device("cpu")) for epoch in range(6)]
    assert made == [False, True, False, True, False, True]
    assert plan.clusters.encoder == weights_digest(model.encoder)
    assert plan.clusters.num_clusters == 3


def test_a_restored_plan_gives_the_same_batches(hum_manifest, model):
    schedule = HardPhaseSchedule(start_epoch=0)
    plan = plan_of(hum_manifest, schedule)
    plan.begin(0, model, torch.device("cpu"))
    restored = plan_of(hum_manifest, schedule)
    restored.load_state_dict(plan.state_dict())
    assert list(restored.batches(2)) == list(plan.batches(2))
    fresh = plan_of(hum_manifest, schedule)
    fresh.load_state_dict(plan_of(hum_manifest, schedule).state_dict())
    assert fresh.clusters is None


def test_more_clusters_than_speakers_are_refused_before_training(hum_manifest):
    with pytest.raises(ValueError, match="num_clusters must be between 1 and the 20 training speakers, got 21"):
        plan_of(hum_manifest, HardPhaseSchedule(), num_clusters=21)
    plan_of(hum_manifest, None, num_clusters=21)
