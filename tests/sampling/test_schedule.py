"""When the hard phase starts, ramps and refreshes."""

import pytest

from chns.sampling import HardPhaseSchedule


def test_the_hard_phase_starts_at_its_epoch_with_the_full_ratio():
    schedule = HardPhaseSchedule(start_epoch=2, hard_ratio=0.8)
    assert [schedule.hard_ratio_at(epoch) for epoch in range(5)] == [0, 0, 0.8, 0.8, 0.8]
    assert [schedule.is_hard(epoch) for epoch in range(4)] == [False, False, True, True]


def test_the_ramp_rises_evenly_to_the_full_ratio():
    schedule = HardPhaseSchedule(start_epoch=1, hard_ratio=1.0, ramp_epochs=3)
    assert [schedule.hard_ratio_at(epoch) for epoch in range(6)] == [0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_clusters_are_made_once_or_every_n_epochs():
    once = HardPhaseSchedule(start_epoch=2)
    assert [epoch for epoch in range(9) if once.clusters_due(epoch)] == [2]
    refreshed = HardPhaseSchedule(start_epoch=2, refresh_every=3)
    assert [epoch for epoch in range(9) if refreshed.clusters_due(epoch)] == [2, 5, 8]


@pytest.mark.parametrize("name", ["start_epoch", "ramp_epochs", "refresh_every"])
def test_epochs_are_not_negative(name):
    with pytest.raises(ValueError, match=f"{name} must be 0 or more epochs, got -1"):
        HardPhaseSchedule(**{name: -1})


def test_the_ratio_is_a_share():
    with pytest.raises(ValueError, match="hard_ratio must be between 0 and 1, got 2"):
        HardPhaseSchedule(hard_ratio=2)
