"""What a crop goes through in a loader worker: speed, reverberation, background, codec, gain, in this order.

It is the order of the world: a person speaks, the room answers, other sounds join at the microphone, the line encodes
the sum, and somebody sets the volume. Each effect draws from a stretch of random bits of its own, made of the crop's
seed and the effect's place, so that the same seed gives the same audio in any number of workers, and switching one
effect on does not change what the others draw.

Rejected: audiomentations. Its transforms draw from the global ``random`` and ``numpy.random`` (some even while they are
applied, with frozen parameters), so a crop would depend on the worker's history; and it takes 2.6 s to import. What is
needed of it is a few lines of numpy, scipy, soxr, libsndfile and LAME.
"""
