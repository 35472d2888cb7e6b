"""How hard a batch is."""

import pytest
import torch

from chns.training.log import Meter, easy_anchor_share
from chns.training.step import StepResult


def step_of(embeddings, labels):
    return StepResult(torch.tensor(1.0), embeddings, labels, 0.0, 0.0)


@pytest.mark.parametrize("utterances_per_speaker", [2, 4])
def test_easy_anchors_are_those_nearer_to_all_their_own_than_to_anybody_else(rng, utterances_per_speaker):
    embeddings = torch.from_numpy(rng.standard_normal((24, 6)))
    labels = torch.arange(24 // utterances_per_speaker).repeat_interleave(utterances_per_speaker)
    embeddings += 2.0 * torch.from_numpy(rng.standard_normal((24, 6)))[labels]
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    easy = []
    for anchor in range(24):
        own = [float(unit[anchor] @ unit[j]) for j in range(24) if labels[j] == labels[anchor] and j != anchor]
        others = [float(unit[anchor] @ unit[j]) for j in range(24) if labels[j] != labels[anchor]]
        easy.append(min(own) > max(others))
    assert 0 < sum(easy) < 24
    assert float(easy_anchor_share(embeddings, labels)) == pytest.approx(sum(easy) / 24)


def test_the_share_of_an_epoch_is_the_mean_over_its_steps_and_survives_a_resume():
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    crossed = apart[[0, 2, 1, 3]]
    meter = Meter()
    meter.add(step_of(apart, labels))
    meter.read(apart)
    restored = Meter()
    restored.load_state_dict(meter.state_dict())
    for one in (meter, restored):
        one.add(step_of(crossed, labels))
        assert one.read(apart)["easy_anchor_share"] == 0.0
        assert one.read_epoch() == 0.5
        one.add(step_of(apart, labels))
        assert one.read_epoch() == 1.0
