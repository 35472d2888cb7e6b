"""From another toolkit's checkpoint to a model bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from chns.checkpoint import Bundle, load_bundle, save_bundle
from chns.errors import ConfigError, ModelFileError
from chns.importing import speechbrain, three_d_speaker, wespeaker
from chns.importing.mapping import Foreign, Weights, our_weights
from chns.importing.weights_file import read_weights

TOOLKITS: dict[str, Callable[[Weights], Foreign]] = {
    "speechbrain": speechbrain.ecapa_tdnn,
    "wespeaker-ecapa": wespeaker.ecapa_tdnn,
    "wespeaker-resnet34": wespeaker.resnet,
    "3d-speaker-cam++": three_d_speaker.cam_plus_plus,
}


def import_model(toolkit: str, checkpoint: Path, folder: Path) -> Bundle:
    """Write a bundle that computes what the checkpoint's model does in its own toolkit.

    Args:
        toolkit: One of `TOOLKITS`.
        checkpoint: The state dict that the toolkit saved; untrusted.
        folder: Where the bundle goes; one that exists is replaced.

    Returns:
        The bundle, as loaded from there.

    Raises:
        ValueError: If there is no such toolkit.
        FileNotFoundError: If there is no such file.
        ModelFileError: If it does not hold that toolkit's encoder.
    """
    if toolkit not in TOOLKITS:
        raise ValueError(f"toolkit must be one of {', '.join(TOOLKITS)}, got {toolkit!r}.")
    weights = read_weights(checkpoint)
    try:
        foreign = TOOLKITS[toolkit](weights)
        model = foreign.architecture.build(empty=True)
        model.encoder.load_state_dict(our_weights(weights, foreign, model.encoder), assign=True)
    except (ModelFileError, ConfigError) as error:
        raise ModelFileError(
            f"{error} It was {checkpoint}, read as {toolkit}; if the model is another, choose another of "
            f"{', '.join(TOOLKITS)}."
        ) from error
    training = {"imported_from": toolkit, "file": checkpoint.name, "sha256": _sha256(checkpoint)}
    save_bundle(folder, model, foreign.architecture, training=training, metrics={})
    return load_bundle(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
