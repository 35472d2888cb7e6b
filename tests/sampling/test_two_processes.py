"""Two real processes agree on every global batch without exchanging it."""

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from forked import SERVER

from chns.sampling import (
    BatchShape,
    ClusterSpeakerBatches,
    NeighbourSpeakerBatches,
    RandomSpeakerBatches,
    SpeakerClusters,
    SpeakerNeighbours,
)

LABELS = np.repeat(np.arange(24), 3)
CLUSTERS = SpeakerClusters(labels=np.arange(24) // 8, centres=np.eye(3, dtype=np.float32), seed=0)
NEIGHBOURS = SpeakerNeighbours(indices=((np.arange(24)[:, None] + np.arange(1, 7)) % 24).astype(np.int32))
PERSONS = np.arange(24) // 2


def samplers(rank, world_size):
    shape = BatchShape(10, steps_per_epoch=4, seed=5, rank=rank, world_size=world_size)
    return [
        RandomSpeakerBatches(LABELS, shape),
        ClusterSpeakerBatches(LABELS, CLUSTERS, shape, hard_ratio=0.6),
        ClusterSpeakerBatches(LABELS, CLUSTERS, shape, hard_ratio=0.6, pooling="even", persons=PERSONS),
        NeighbourSpeakerBatches(LABELS, NEIGHBOURS, shape, hard_ratio=0.6, group_size=3, band=(0, 6)),
    ]


def run_rank(rank, world_size, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    for number, batches in enumerate(samplers(rank, world_size)):
        batches.set_epoch(1)
        for step, mine in enumerate(batches):
            slices = [torch.zeros(len(mine), dtype=torch.int64) for _ in range(world_size)]
            dist.all_gather(slices, torch.tensor(mine))
            if rank == 0:
                results[number, step] = torch.cat(slices).tolist()
    dist.destroy_process_group()


def test_the_slices_of_two_gloo_processes_are_the_batch_of_one(tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        arguments = (2, str(tmp_path / "store"), results)
        mp.start_processes(run_rank, args=arguments, nprocs=2, start_method=SERVER.get_start_method())
        gathered = dict(results)
    for number, batches in enumerate(samplers(0, 1)):
        batches.set_epoch(1)
        assert [gathered[number, step] for step in range(4)] == list(batches)
