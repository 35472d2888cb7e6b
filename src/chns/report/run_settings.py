"""The settings that a run was trained with, read back from its folder."""

from __future__ import annotations

from jsonargparse import ArgumentError, ArgumentParser

from chns.errors import RunFolderError
from chns.training.folder import RunFolder
from chns.training.settings import ClusterSettings, ObjectSettings, TrainSettings

_LOSS_NAMES = {
    "chns.losses.SupConLoss": "SupCon",
    "chns.losses.HSCLLoss": "H-SCL",
    "chns.losses.AAMSoftmaxLoss": "AAM-softmax",
}


def read_settings(run: RunFolder) -> TrainSettings:
    """The settings of a run; one that its ``config.yaml`` lacks has its default.

    Raises:
        RunFolderError: If a setting is unknown or of the wrong type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainSettings)
    try:
        settings = parser.instantiate(parser.parse_object(dict(run.settings)))
        return TrainSettings(**{name: settings[name] for name in TrainSettings.__dataclass_fields__})
    except (ArgumentError, TypeError) as error:
        raise RunFolderError(
            f"config.yaml must hold the settings of a training, got others in {run.path / 'config.yaml'} ({error})."
        ) from error


def strategy_name(settings: TrainSettings) -> str:
    """Loss and batches in words, e.g. ``SupCon, clustered batches, hard ratio 1.0``."""
    loss, clusters = _loss_name(settings.loss), settings.clusters
    match settings.batches.kind:
        case "random":
            words = ["random batches"]
        case "clustered":
            words = ["clustered batches", f"hard ratio {clusters.hard_ratio}", *_of_clusters(clusters)]
            words += _of_hard_phase(clusters, anew="clustered anew")
        case "neighbours":
            words = ["batches of neighbours", f"hard ratio {clusters.hard_ratio}", *_of_groups(clusters)]
            words += _of_hard_phase(clusters, anew="neighbours anew")
        case "auto":
            words = ["auto batches", *_of_groups(clusters)]
    return ", ".join([loss, *words])


def _loss_name(loss: ObjectSettings) -> str:
    name = _LOSS_NAMES.get(loss.factory, loss.factory.rpartition(".")[2])
    start = loss.settings.get("beta_start")
    return name if start is None else f"{name} with beta from {start}"


def _of_clusters(clusters: ClusterSettings) -> list[str]:
    words = [] if clusters.pooling == "random" else [f"{clusters.pooling} pooling"]
    return words if clusters.num_clusters else [*words, "number of clusters derived"]


def _of_groups(clusters: ClusterSettings) -> list[str]:
    """Size of the groups and their band, if they are not the usual ones."""
    size, first, last = clusters.group_size, clusters.first_neighbour, clusters.last_neighbour
    usual = ClusterSettings()
    if (size, first, last) == (usual.group_size, usual.first_neighbour, usual.last_neighbour):
        return []
    return [f"groups of {size} from the nearest {first + 1} to {last}"]


def _of_hard_phase(clusters: ClusterSettings, *, anew: str) -> list[str]:
    words = ["from when batches are easy"] if clusters.start == "easy" else []
    if clusters.refresh_every:
        words.append(f"{anew} every {clusters.refresh_every} epochs")
    if clusters.refresh_drift:
        words.append(f"{anew} after a drift of {clusters.refresh_drift:g}")
    if clusters.centroids == "moving_average":
        words.append("moving centroids")
    if clusters.separate_same_person:
        words.append("suspected doubles kept apart")
    return words
