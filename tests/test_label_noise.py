"""The benchmark of wrong labels: labels are exchanged as it says, and it goes on where it was."""

import json
import runpy
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "label_noise.py"))


@pytest.fixture(scope="module")
def voices():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), 6)
    return rng.normal(size=(60, 24))[labels] + 0.5 * rng.normal(size=(360, 24)), labels


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
def test_the_share_is_exact_and_everybody_keeps_as_many_utterances(voices, share):
    labels = voices[1]
    wrong = BENCHMARK["swapped"](labels, share, np.random.default_rng(3))
    assert (wrong != labels).sum() == round(share * len(labels))
    assert np.array_equal(np.bincount(wrong), np.bincount(labels))


@pytest.mark.slow
def test_it_goes_on_with_the_shares_that_are_missing_and_tells_each_way(voices, tmp_path, capsys):
    options = Namespace(held_out=12, steps=3, seeds=1, shares=[0.2], json=tmp_path / "found.json")
    first = BENCHMARK["measured"](*voices, options)
    assert set(first["0.2"]["error_rates"]["eer"]) == set(BENCHMARK["WAYS"])
    found = first["0.2"]["detection"]["mixture of the margin, and another is nearer"]
    assert found["recall"] > 0.9
    assert found["precision"] > 0.9
    options.shares = [0.2, 0.0]
    second = BENCHMARK["measured"](*voices, options)
    assert second["0.2"] == json.loads(json.dumps(first["0.2"]))
    right, wrong = (second["0"]["error_rates"]["eer"][way] for way in ("right", "wrong"))
    assert right["seeds"] == wrong["seeds"]  # with no label exchanged they are the same
    BENCHMARK["show"](second, [0.0, 0.2])
    assert capsys.readouterr().out.count("| 20% | left out |") == 1
