"""Moving averages of training embeddings."""

import numpy as np
import pytest
import torch

from chns import moving_centroids
from chns.moving_centroids import MovingCentroids

RIGHT, UP = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def test_a_speaker_begins_where_it_is_first_met_and_then_moves_by_the_momentum():
    moving = MovingCentroids(2, momentum=0.75)
    moving.update(torch.stack([3 * RIGHT, RIGHT, UP, UP]), torch.tensor([0, 0, 1, 1]))
    np.testing.assert_allclose(moving.centroids(), [[1, 0], [0, 1]])
    moving.update(torch.stack([UP, UP]), torch.tensor([0, 0]))
    expected = np.array([0.75, 0.25]) / np.hypot(0.75, 0.25)
    np.testing.assert_allclose(moving.centroids()[0], expected, rtol=1e-6)


def test_all_utterances_of_a_batch_weigh_the_same_whatever_their_length():
    moving = MovingCentroids(1)
    moving.update(torch.stack([9 * RIGHT, UP]), torch.tensor([0, 0]))
    np.testing.assert_allclose(moving.centroids(), [[0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_a_speaker_not_met_yet_gets_the_mean_of_the_others():
    moving = MovingCentroids(3)
    moving.update(torch.stack([RIGHT, UP]), torch.tensor([0, 2]))
    np.testing.assert_allclose(moving.centroids()[1], [0.5**0.5, 0.5**0.5], rtol=1e-6)


def test_drift_is_the_mean_cosine_distance_since_the_grouping():
    moving = MovingCentroids(3, momentum=0.0)
    assert moving.drift() == 0.0
    moving.update(torch.stack([RIGHT, RIGHT]), torch.tensor([0, 1]))
    moving.mark_grouped()
    assert moving.drift() == pytest.approx(0.0, abs=1e-7)
    moving.update(torch.stack([UP, UP]), torch.tensor([0, 2]))
    assert moving.drift() == pytest.approx(0.5)


def test_drift_in_parts_is_the_drift_of_all(monkeypatch, rng):
    moving = MovingCentroids(7)
    for _ in range(2):
        moving.update(torch.from_numpy(rng.standard_normal((6, 3))), torch.tensor([0, 1, 2, 4, 5, 6]))
        if moving.drift() == 0:
            moving.mark_grouped()
    at_once = moving.drift()
    assert at_once > 0
    monkeypatch.setattr(moving_centroids, "_ROWS_AT_ONCE", 2)
    assert moving.drift() == pytest.approx(at_once, rel=1e-12)


def test_a_saved_state_goes_on_alike(rng):
    batches = [(torch.from_numpy(rng.standard_normal((4, 3))), torch.tensor([0, 0, 1, 1])) for _ in range(4)]
    moving, restored = MovingCentroids(2), MovingCentroids(2)
    for batch in batches[:2]:
        moving.update(*batch)
    moving.mark_grouped()
    restored.load_state_dict(moving.state_dict())
    for batch in batches[2:]:
        moving.update(*batch)
        restored.update(*batch)
    np.testing.assert_array_equal(moving.centroids(), restored.centroids())
    assert moving.drift() == restored.drift()


def test_without_a_batch_there_are_no_centroids():
    with pytest.raises(ValueError, match="moving centroids must have seen a batch, got none"):
        MovingCentroids(2).centroids()


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_the_momentum_is_a_share_below_one(momentum):
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\)"):
        MovingCentroids(2, momentum=momentum)
