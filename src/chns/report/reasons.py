"""Why a section of the report is empty, for each run that has nothing to show in it."""

from __future__ import annotations

from collections.abc import Sequence

from chns.report.findings import RunFindings
from chns.report.training_figures import QUANTITIES, measured

_NOT_EMBEDDED = "the training speakers were not embedded"
_WITHOUT_CLUSTERS: dict[str, str] = {
    "random": "random batches, so no clusters",
    "clustered": "it has not clustered yet",
    "neighbours": "batches of neighbours, so no clusters",
    "auto": "batches of neighbours, so no clusters",
}


def missing_reasons(runs: Sequence[RunFindings]) -> dict[str, list[str]]:
    """Sentences, one a reason, by section of the page."""
    found: dict[str, dict[str, list[str]]] = {
        name: {} for name in ("scores", "hardness", "map", "clusters", "training", "duplicates")
    }
    for run in runs:
        for section, reason in _reasons(run).items():
            found[section].setdefault(reason, []).append(run.name)
    return {
        section: [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]
        for section, reasons in found.items()
    }


def _reasons(run: RunFindings) -> dict[str, str]:
    reasons = {}
    if not run.scored:
        scores = run.path / "scores"
        reasons["scores"] = (
            f"no score file with labels was found in {scores}. Run "
            f"`chns evaluate {run.path / 'model'} M.parquet --trials LIST.txt --scores {scores / 'LIST.txt'}`"
        )
    if run.speaker_map is None:
        problem = f" ({run.why_not_embedded.rstrip('.')})" if run.why_not_embedded else ""
        reasons |= dict.fromkeys(
            ("hardness", "map", "clusters", "duplicates"), f"{_NOT_EMBEDDED}{problem}. Another manifest: --manifest"
        )
    else:
        if run.batch_hardness is None:
            reasons["hardness"] = "fewer than two speakers have enough utterances for a batch"
        if run.cluster_shapes is None:
            reasons["clusters"] = _WITHOUT_CLUSTERS[run.batches]
        reasons |= _part_of_speakers(run, shown=len(run.speaker_map.speakers))
    unmeasured = [one.title for one in QUANTITIES if not (one.is_recent or len(measured(run.log, one)))]
    if unmeasured:
        reasons["training"] = f"the log has no values of {', '.join(unmeasured)}"
    return reasons


def _part_of_speakers(run: RunFindings, *, shown: int) -> dict[str, str]:
    if run.num_training_speakers is None or run.num_training_speakers <= shown:
        return {}
    part = f"of {run.num_training_speakers:,} training speakers, {shown:,} drawn at random were looked at"
    return dict.fromkeys(("map", "duplicates"), part)
