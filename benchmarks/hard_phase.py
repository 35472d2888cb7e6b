"""What the parts of the hard phase cost: a step's share, and the seconds between two epochs.

- **every step**: the share of easy anchors of a batch, in milliseconds and as a share of the mobile ECAPA-TDNN's step
  on the same batch (`--step-segments` are trained, and the time is scaled).
- **when the hard phase begins**: the search for speakers who may be one person under two names, in seconds. The
  search's embeddings are made up: three of each speaker, speakers in groups of similar ones.

MB are the memory that each of them needs in passing: the peak of the resident set over what it was before. Reads
Linux's /proc.

    python benchmarks/hard_phase.py [--speakers 6000 1000000] [--out hard_phase.json]
"""

import time

import numpy as np
import torch
from process_memory import megabytes_more
from report import Ratio, parser, publish, seconds_of, take_turns

from chns.encoders import SpeakerEncoder, ecapa_tdnn_mobile
from chns.features import LogMel
from chns.losses import SupConLoss
from chns.sampling.same_person import persons_of, suspected_pairs
from chns.training.log import easy_anchor_share

RATE_HZ, SECONDS = 16_000, 3.0


def step_seconds(segments: int, repeats: int) -> float:
    """Median seconds of a training step, forward and backward, in bfloat16."""
    model = SpeakerEncoder(LogMel(), ecapa_tdnn_mobile()).train()
    loss = SupConLoss()
    waveforms = torch.randn(segments, round(SECONDS * RATE_HZ))
    labels = torch.arange(segments // 2).repeat_interleave(2)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = model(waveforms)
        loss(embeddings, labels).backward()

    return take_turns({"step": step}, repeats=repeats)["step"].median


def grouped_embeddings(speakers: int, utterances: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Utterances around speakers around groups of ten, shape (speakers * utterances, dim)."""
    groups = rng.standard_normal((speakers // 10 + 1, dim), dtype=np.float32)
    voices = groups[np.arange(speakers) // 10] + 0.7 * rng.standard_normal((speakers, dim), dtype=np.float32)
    noise = rng.standard_normal((speakers * utterances, dim), dtype=np.float32)
    return np.repeat(voices, utterances, axis=0) + 0.7 * noise


def cost_of_doubles(speakers: int, dim: int, rng: np.random.Generator) -> dict[str, float]:
    """The search for speakers who may be one person: seconds, of all threads too, and memory beside the embeddings."""
    embeddings, owners = grouped_embeddings(speakers, 3, dim, rng), np.arange(speakers).repeat(3)
    seconds, cpu_before = [], time.process_time()

    def search() -> None:
        seconds.append(seconds_of(lambda: persons_of(speakers, suspected_pairs(embeddings, owners))))

    memory = megabytes_more(search)
    cpu_seconds = time.process_time() - cpu_before
    return {"doubles, s": seconds[0], "doubles, CPU s": cpu_seconds, "doubles, MB": memory}


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="hard_phase.json", repeats=10)
    options.add_argument("--speakers", type=int, nargs="+", default=[6_000, 1_000_000])
    options.add_argument("--speakers-per-batch", type=int, default=650)
    options.add_argument("--dim", type=int, default=192)
    options.add_argument("--step-segments", type=int, default=32)
    arguments = options.parse_args()
    rng = np.random.default_rng(0)
    segments = 2 * arguments.speakers_per_batch
    embeddings = torch.randn(segments, arguments.dim)
    step = step_seconds(arguments.step_segments, arguments.repeats) * segments / arguments.step_segments
    rows, ratios = {}, []
    for speakers in arguments.speakers:
        labels = torch.from_numpy(rng.choice(speakers, arguments.speakers_per_batch, replace=False)).repeat_interleave(
            2
        )
        calls = {"easy anchors": lambda labels=labels: easy_anchor_share(embeddings, labels)}
        timings = take_turns(calls, repeats=arguments.repeats)
        row = {f"{name}, ms a step": 1e3 * timing.median for name, timing in timings.items()}
        row |= {"easy anchors, MB": megabytes_more(calls["easy anchors"])}
        row |= cost_of_doubles(speakers, arguments.dim, rng)
        rows[f"{speakers:,} speakers"] = row
        each_step = sum(timing.median for timing in timings.values())
        ratios.append(Ratio(f"{speakers:,} speakers: easy anchors / a training step", each_step / step, at_most=0.03))
    title = f"{arguments.speakers_per_batch} x 2 segments, {arguments.dim} dimensions; a step of it takes {step:.2f} s"
    publish(arguments.out, title, rows, ratios, segments=segments)


if __name__ == "__main__":
    main()
