import numpy as np

from chns.sampling import BatchShape, RandomSpeakerBatches


def test_the_number_of_speakers_can_be_given_alone():
    labels = np.repeat(np.arange(20), 3)
    shape = BatchShape(4, 3, seed=5)
    assert list(RandomSpeakerBatches(labels, speakers_per_batch=4)) == list(RandomSpeakerBatches(labels, BatchShape(4)))
    same = RandomSpeakerBatches(labels, BatchShape(9, 3, seed=5), speakers_per_batch=4)
    assert list(same) == list(RandomSpeakerBatches(labels, shape))
