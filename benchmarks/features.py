"""What log-mel features cost against kaldi-native-fbank, with the same settings, and that both agree.

Ours takes a batch, Kaldi's one utterance at a time, on one thread: measure with OMP_NUM_THREADS=1 to compare cores.

    OMP_NUM_THREADS=1 python benchmarks/features.py [--batch 64] [--seconds 3] [--out features.json]
"""

from types import ModuleType

import numpy as np
import torch
from report import Ratio, milliseconds, parser, peer, publish, take_turns

from chns.features import LogMel

RATE_HZ = 16_000
OURS, PEER = "chns LogMel", "kaldi-native-fbank"


def kaldi_features(kaldi: ModuleType, samples: np.ndarray) -> np.ndarray:
    """Features of one waveform in 16-bit units, with the mean over its frames subtracted."""
    options = kaldi.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 80
    options.energy_floor = 0.0
    computer = kaldi.OnlineFbank(options)
    computer.accept_waveform(RATE_HZ, samples)
    computer.input_finished()
    frames = np.stack([computer.get_frame(number) for number in range(computer.num_frames_ready)])
    centred: np.ndarray = frames - frames.mean(axis=0)
    return centred


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="features.json", repeats=15)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--seconds", type=float, default=3.0)
    arguments = options.parse_args()
    shape = (arguments.batch, round(arguments.seconds * RATE_HZ))
    waveforms = (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    ours, batch = LogMel(), torch.from_numpy(waveforms)
    sides = {OURS: lambda: ours(batch)}
    kaldi = peer("kaldi_native_fbank")
    if kaldi is not None:
        in_16_bits = list(waveforms * 2.0**15)
        sides[PEER] = lambda: [kaldi_features(kaldi, samples) for samples in in_16_bits]
        np.testing.assert_allclose(ours(batch[:1])[0].numpy(), kaldi_features(kaldi, in_16_bits[0]), atol=5e-3)
    timings = take_turns(sides, repeats=arguments.repeats)
    sound_seconds = arguments.batch * arguments.seconds
    rows = milliseconds(timings)
    for name, timing in timings.items():
        rows[name]["x real time"] = sound_seconds / timing.median
    ratios = [Ratio(f"{OURS} / {PEER}", timings[OURS].median / timings[PEER].median)] if kaldi is not None else []
    title = f"80 log-mels of {arguments.batch} x {arguments.seconds} s"
    publish(arguments.out, title, rows, ratios, batch=arguments.batch, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
