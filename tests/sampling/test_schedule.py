"""When the hard phase starts, ramps and refreshes."""

import pytest

from chns.sampling.schedule import EpochSignals, StartAt, StartWhenEasy


def test_the_hard_phase_starts_at_its_epoch_with_the_full_ratio():
    schedule = StartAt(2, hard_ratio=0.8)
    assert [schedule.hard_ratio_at(epoch) for epoch in range(5)] == [0, 0, 0.8, 0.8, 0.8]


def test_the_ramp_rises_evenly_to_the_full_ratio():
    schedule = StartAt(1, hard_ratio=1.0, ramp_epochs=3)
    assert [schedule.hard_ratio_at(epoch) for epoch in range(6)] == [0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("name", ["epoch", "ramp_epochs", "regroup_every"])
def test_epochs_are_not_negative(name):
    with pytest.raises(ValueError, match=f"{name} must be 0 or more, got -1"):
        StartAt(**{name: -1})


def test_the_ratio_is_a_share():
    with pytest.raises(ValueError, match="hard_ratio must be between 0 and 1, got 2"):
        StartAt(hard_ratio=2)
    assert StartAt(0, hard_ratio=0.0).hard_ratio_at(3) == 0


def test_nothing_that_is_observed_changes_the_plan():
    schedule = StartAt(1, hard_ratio=0.5)
    assert schedule.end_epoch(1, EpochSignals(easy_anchor_share=0.0, validation_eer=0.5)) == []
    schedule.load_state_dict(schedule.state_dict())
    assert schedule.hard_ratio_at(2) == 0.5


def ratios_after(phase, easy_shares, eers=None):
    ratios = []
    for epoch, easy in enumerate(easy_shares):
        phase.end_epoch(epoch, EpochSignals(easy, eers[epoch] if eers else None))
        ratios.append(phase.hard_ratio_at(epoch + 1))
    return ratios


def test_hard_batches_begin_when_random_ones_have_become_easy():
    phase = StartWhenEasy(start_easy_share=0.8, step=0.25)
    assert ratios_after(phase, [0.3, 0.6, 0.79, 0.81]) == [0, 0, 0, 0.25]


def test_the_ratio_stays_while_batches_are_within_the_band_and_follows_them_out_of_it():
    phase = StartWhenEasy(start_easy_share=0.9, easy_share_low=0.5, easy_share_high=0.8, step=0.25)
    assert ratios_after(phase, [0.95, 0.7, 0.85, 0.4, 0.4, 0.4]) == [0.25, 0.25, 0.5, 0.25, 0, 0]
    assert ratios_after(phase, [0.85, 0.95]) == [0, 0.25]


def test_the_ratio_never_exceeds_its_largest():
    assert ratios_after(StartWhenEasy(hard_ratio=0.6, step=0.25), [0.95] * 4) == [0.25, 0.5, 0.6, 0.6]


def test_it_does_not_begin_before_its_earliest_epoch():
    assert ratios_after(StartWhenEasy(earliest_epoch=3), [0.95] * 4) == [0, 0, 0.5, 1]


def test_a_validation_that_stays_worse_halves_the_ratio_and_then_ends_the_hard_phase():
    phase = StartWhenEasy(easy_share_low=0.1, step=0.5, tolerance=0.1)
    eers = [0.10, 0.10, 0.12, 0.12, 0.105, 0.12, 0.12, 0.12, 0.10, 0.12, 0.12, 0.12, 0.01, 0.01]
    easy = [0.95] * 2 + [0.5] * 6 + [0.95] + [0.5] * 3 + [0.95] * 2
    assert ratios_after(phase, easy, eers) == [0.5, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0, 0, 0]


def test_shares_at_the_ends_of_the_band_are_within_it():
    assert ratios_after(StartWhenEasy(start_easy_share=0.75), [0.75, 0.76]) == [0, 0.5]
    phase = StartWhenEasy(easy_share_low=0.25, easy_share_high=0.75)
    assert ratios_after(phase, [0.95, 0.75, 0.25]) == [0.5, 0.5, 0.5]


def test_a_validation_that_is_as_far_above_the_best_as_it_may_be_is_not_worse():
    assert ratios_after(StartWhenEasy(tolerance=0.0), [0.95, 0.7, 0.7, 0.7], [0.25] * 4) == [0.5] * 4


def test_validations_before_the_hard_phase_do_not_count_against_it():
    eers = [0.1, 0.2, 0.2, 0.2, 0.2]
    assert ratios_after(StartWhenEasy(), [0.6, 0.6, 0.6, 0.6, 0.95], eers) == [0, 0, 0, 0, 0.5]


def test_shares_may_be_none_and_all():
    never = StartWhenEasy(start_easy_share=1.0, easy_share_high=1.0)
    assert ratios_after(never, [1.0, 1.0]) == [0, 0]
    at_once = StartWhenEasy(start_easy_share=0.0, easy_share_low=0.0)
    assert ratios_after(at_once, [0.01, 0.0]) == [0.5, 0.5]


def test_waiting_for_easy_batches_is_told_until_they_come():
    phase = StartWhenEasy(earliest_epoch=2)
    assert phase.waiting is None
    phase.end_epoch(0, EpochSignals(0.95, None))
    assert phase.waiting == (
        "epoch 0: 95 % of the anchors were easy, but it is too early, above 80 %: stayed random, as supcon"
    )
    phase.end_epoch(1, EpochSignals(0.72, None))
    told = "epoch 1: 72 % of the anchors were easy, below 80 %: stayed random, as supcon"
    assert phase.waiting == told
    resumed = StartWhenEasy(earliest_epoch=2)
    resumed.load_state_dict(phase.state_dict())
    assert resumed.waiting == told
    phase.end_epoch(2, EpochSignals(0.95, None))
    phase.end_epoch(3, EpochSignals(0.1, None))  # back to random batches, which is a decision of its own
    phase.end_epoch(4, EpochSignals(0.3, None))
    assert phase.waiting is None


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.802, "80.2 % of the anchors were easy, above 80 %"),
        (0.8004, "80.04 % of the anchors were easy, above 80 %"),
        (0.798, "79.8 % of the anchors were easy, below 80 %"),
        (0.8, "80 % of the anchors were easy, below 80 %"),
    ],
)
def test_a_share_near_its_limit_is_told_apart_from_it(share, told):
    phase = StartWhenEasy()
    assert told in " ".join([*phase.end_epoch(0, EpochSignals(share, None)), phase.waiting or ""])


def test_decisions_are_told_in_words():
    phase = StartWhenEasy(tolerance=0.9)
    begin = phase.end_epoch(0, EpochSignals(0.95, 0.1))
    assert begin == ["95 % of the anchors were easy, above 80 %: hard ratio 0 -> 0.5"]
    assert phase.end_epoch(1, EpochSignals(0.85, 0.1)) == [
        "85 % of the anchors were easy, above 80 %: hard ratio 0.5 -> 1"
    ]
    for outcome in ("hard ratio 1 -> 0.5 at most", "batches are random from now on"):
        assert [phase.end_epoch(2, EpochSignals(0.7, 0.2)) for _ in range(3)] == [
            [],
            [],
            [f"validation EER 20.00 % has been more than 90 % above the best, 10.00 %, 3 times: {outcome}"],
        ]
    assert phase.end_epoch(3, EpochSignals(0.99, 0.01)) == []
    too_hard = StartWhenEasy(easy_share_low=0.7)
    too_hard.end_epoch(0, EpochSignals(0.95, None))
    assert too_hard.end_epoch(1, EpochSignals(0.6, None)) == [
        "only 60 % of the anchors were easy, below 70 %: hard ratio 0.5 -> 0"
    ]


def test_a_saved_state_goes_on_alike():
    easy, eers = [0.95, 0.7, 0.95, 0.7, 0.7], [0.1, 0.2, 0.1, 0.2, 0.2]
    whole = ratios_after(StartWhenEasy(), easy, eers)
    first = StartWhenEasy()
    ratios_after(first, easy[:2], eers[:2])
    second = StartWhenEasy()
    second.load_state_dict(first.state_dict())
    assert ratios_after(second, easy[2:], eers[2:]) == whole[2:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_easy_share": 1.5}, "start_easy_share must be between 0 and 1, got 1.5"),
        ({"earliest_epoch": -1}, "earliest_epoch must be 0 or more, got -1"),
        ({"easy_share_low": 0.8}, "easy_share_low must be below easy_share_high, .* got 0.8 and 0.8"),
        ({"easy_share_high": 1.1}, "easy_share_low must be below easy_share_high"),
        ({"hard_ratio": 0.0}, "hard_ratio must be above 0 and at most 1, got 0.0"),
        ({"step": 2.0}, "step must be above 0 and at most 1, got 2.0"),
        ({"tolerance": -0.1}, "tolerance must be 0 or more, got -0.1"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        StartWhenEasy(**settings)
