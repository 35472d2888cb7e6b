"""The maps of the training speakers as the page's script reads them.

Coordinates are whole numbers up to 2,000, finer than a screen; runs of one corpus share one list of names. 6,000
speakers take 60 kB of names, and 75 kB a run: an ``<svg>`` with a titled circle for each would take six times as much,
and be slow to point at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chns.report.findings import RunFindings, SpeakerMap
from chns.report.palette import NUM_CLUSTER_COLOURS

_EXTENT = 2_000


def map_data(runs: Sequence[RunFindings]) -> dict[str, Any]:
    """Content of the page's JSON element.

    Returns:
        ``num_colours``; ``speakers``: lists of names; ``runs``: for each run with a map its name, which list its names
        are, coordinates, their extent, clusters (null if it never clustered) and the share of variance kept.
    """
    lists: dict[tuple[str, ...], int] = {}
    maps = []
    for run in runs:
        if run.speaker_map is not None:
            names = tuple(run.speaker_map.speakers)
            maps.append({"name": run.name, "speakers": lists.setdefault(names, len(lists)), **_points(run.speaker_map)})
    return {"num_colours": NUM_CLUSTER_COLOURS, "speakers": [list(names) for names in lists], "runs": maps}


def _points(speakers: SpeakerMap) -> dict[str, Any]:
    from_corner = speakers.points - speakers.points.min(axis=0)
    scale = _EXTENT / (from_corner.max() or 1.0)
    x, y = np.rint(scale * from_corner).astype(np.int64).T
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "size": [int(x.max()), int(y.max())],
        "clusters": None if speakers.clusters is None else speakers.clusters.tolist(),
        "explained": round(speakers.explained, 4),
    }
