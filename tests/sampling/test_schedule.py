"""When the hard phase starts, ramps and refreshes."""

import pytest

from chns.sampling import HardPhaseSchedule
from chns.sampling.schedule import EpochSignals


def test_the_hard_phase_starts_at_its_epoch_with_the_full_ratio():
    schedule = HardPhaseSchedule(start_epoch=2, hard_ratio=0.8)
    assert [schedule.hard_ratio_at(epoch) for epoch in range(5)] == [0, 0, 0.8, 0.8, 0.8]


def test_the_ramp_rises_evenly_to_the_full_ratio():
    schedule = HardPhaseSchedule(start_epoch=1, hard_ratio=1.0, ramp_epochs=3)
    assert [schedule.hard_ratio_at(epoch) for epoch in range(6)] == [0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("name", ["start_epoch", "ramp_epochs"])
def test_epochs_are_not_negative(name):
    with pytest.raises(ValueError, match=f"{name} must be 0 or more epochs, got -1"):
        HardPhaseSchedule(**{name: -1})


def test_the_ratio_is_a_share():
    with pytest.raises(ValueError, match="hard_ratio must be between 0 and 1, got 2"):
        HardPhaseSchedule(hard_ratio=2)


def test_nothing_that_is_observed_changes_the_plan():
    schedule = HardPhaseSchedule(start_epoch=1, hard_ratio=0.5)
    assert schedule.end_epoch(1, EpochSignals(easy_anchor_share=0.0, validation_eer=0.5)) == []
    schedule.load_state_dict(schedule.state_dict())
    assert schedule.hard_ratio_at(2) == 0.5
