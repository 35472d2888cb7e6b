"""The mean of the last epochs: what it is of, and that a run that goes on has the same."""

import pytest
import torch
from torch import nn

from chns.core import ConfigError
from chns.training.build import make_rhythm
from chns.training.settings import TrainingSettings, TrainSettings
from chns.training.state import LastEpochs


def model_at(value):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    set_to(model, value)
    return model


def set_to(model, value):
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)


def test_the_last_epoch_ends_with_the_mean_of_those_that_count():
    model = model_at(9)
    mean = LastEpochs(model, first=1, last=3)
    for epoch, value in enumerate((100, 1, 2, 6)):
        set_to(model, value)
        mean.end_epoch(epoch)
        if epoch < 3:
            assert all((tensor == value).all() for tensor in model.state_dict().values())
    for tensor in model.state_dict().values():  # running statistics too
        assert not tensor.is_floating_point() or (tensor == 3).all()


def test_a_run_that_goes_on_and_one_that_is_made_longer_have_the_same():
    model = model_at(4)
    stopped = LastEpochs(model, first=0, last=1)
    stopped.end_epoch(0)
    kept = stopped.state_dict()
    other = model_at(8)
    goes_on = LastEpochs(other, first=0, last=1)
    goes_on.load_state_dict(kept)
    goes_on.end_epoch(1)
    assert (other[0].weight == 6).all()
    longer = LastEpochs(other, first=2, last=3)
    longer.load_state_dict(goes_on.state_dict())
    for epoch, value in ((2, 1), (3, 3)):
        set_to(other, value)
        longer.end_epoch(epoch)
    assert (other[0].weight == 2).all()


@pytest.mark.parametrize("average_last", [0, 6])
def test_more_epochs_than_there_are_cannot_be_averaged(average_last):
    settings = TrainSettings(train=TrainingSettings(epochs=5, average_last=average_last))
    with pytest.raises(ConfigError, match=rf"average_last must be between 1 and train.epochs = 5, got {average_last}"):
        make_rhythm(settings)
