"""The model bundle: a folder that holds a trained model and everything needed to use it.

``model.safetensors`` holds the weights, ``model.json`` the architecture, the features, and what is known of training
and quality. Loading needs no configuration. A bundle is untrusted input: nothing is unpickled, only factories of
trusted packages are called, and the network is laid out without memory until its size is known to match the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from chns import __version__
from chns.encoders import SpeakerEncoder
from chns.errors import ConfigError, ModelFileError
from chns.factory import make
from chns.features import LogMel
from chns.files import atomic_folder

_FORMAT = "chns-model-1"
_WEIGHTS = "model.safetensors"
_DESCRIPTION = "model.json"
_LARGEST_DESCRIPTION_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a model, without its weights.

    Attributes:
        encoder: Import path of the encoder's class or function.
        encoder_settings: Its keyword arguments.
        feature_settings: Keyword arguments of `chns.features.LogMel`.
    """

    encoder: str
    encoder_settings: Mapping[str, Any] = field(default_factory=dict)
    feature_settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> SpeakerEncoder:
        """A model with fresh weights.

        Raises:
            ConfigError: If the encoder cannot be made from its settings.
        """
        features = make("chns.features.LogMel", self.feature_settings)
        return SpeakerEncoder(features, make(self.encoder, self.encoder_settings, num_mels=features.num_mels))


class Bundle(NamedTuple):
    """A loaded model bundle.

    Attributes:
        model: In evaluation mode, on the CPU.
        architecture: How it is built.
        digest: SHA-256 of its weights: the identity of the encoder.
        training: Summary of the training.
        metrics: Error rates measured at the end of it.
    """

    model: SpeakerEncoder
    architecture: Architecture
    digest: str
    training: dict[str, Any]
    metrics: dict[str, Any]


def save_bundle(
    folder: Path,
    model: SpeakerEncoder,
    architecture: Architecture,
    *,
    training: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Write a bundle; one that exists is replaced, and is never seen half written.

    Args:
        folder: Where to.
        model: What was trained.
        architecture: What it was built from.
        training: Anything JSON holds: data, steps, settings.
        metrics: Anything JSON holds: error rates, with what they were measured on.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.encoder.state_dict().items()}
    with atomic_folder(folder) as temporary:
        save_file(weights, temporary / _WEIGHTS)
        description = {
            "format": _FORMAT,
            "chns_version": __version__,
            **asdict(architecture),
            "sample_rate_hz": model.sample_rate_hz,
            "weights_sha256": weights_digest(model.encoder),
            "training": dict(training),
            "metrics": dict(metrics),
        }
        (temporary / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_bundle(folder: Path | str, *, trusted_packages: Collection[str] = ()) -> Bundle:
    """Read a bundle.

    Args:
        folder: What `save_bundle` wrote.
        trusted_packages: Further packages whose encoders may be built, which runs their code; `chns` is trusted.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ModelFileError: If the bundle is damaged, of another format, or names an encoder of a package not trusted.
    """
    folder = Path(folder)
    for name in (_DESCRIPTION, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"model must be a folder with {_DESCRIPTION} and {_WEIGHTS}, got {folder}.")
    description = _read_description(folder / _DESCRIPTION)
    architecture = Architecture(**{name: description[name] for name in Architecture.__dataclass_fields__})
    package = architecture.encoder.partition(".")[0]
    if package != "chns" and package not in trusted_packages:
        raise ModelFileError(
            f"encoder must come from a trusted package, got {architecture.encoder!r} in {folder}. "
            f"If you know its code, add {package!r} to the trusted packages."
        )
    model = _with_weights(architecture, folder / _WEIGHTS)
    digest = weights_digest(model.encoder)
    if digest != description["weights_sha256"]:
        raise ModelFileError(f"weights must have the digest that {_DESCRIPTION} states, got another in {folder}.")
    return Bundle(model.eval(), architecture, digest, description["training"], description["metrics"])


def load_model(folder: Path | str, *, trusted_packages: Collection[str] = ()) -> SpeakerEncoder:
    """The model of a bundle, in evaluation mode. See `load_bundle`."""
    return load_bundle(folder, trusted_packages=trusted_packages).model


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 of a module's weights: tells which state of an encoder made something."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _read_description(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_DESCRIPTION_BYTES:
        raise ModelFileError(f"description must be at most {_LARGEST_DESCRIPTION_BYTES} bytes, got more in {path}.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"description must be JSON, got something else in {path} ({error}).") from error
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise ModelFileError(f"model must be of format {_FORMAT}, got another in {path}.")
    wanted = {
        "encoder": str,
        "encoder_settings": dict,
        "feature_settings": dict,
        "weights_sha256": str,
        "training": dict,
        "metrics": dict,
    }
    for name, kind in wanted.items():
        if not isinstance(description.get(name), kind):
            raise ModelFileError(f"{name} must be of type {kind.__name__}, got {description.get(name)!r} in {path}.")
    return description


def _with_weights(architecture: Architecture, path: Path) -> SpeakerEncoder:
    """Lay the encoder out on the meta device, which takes no memory, then let it adopt the file's tensors."""
    try:
        weights = load_file(path)
        features: LogMel = make("chns.features.LogMel", architecture.feature_settings)
        with torch.device("meta"):
            encoder = make(architecture.encoder, architecture.encoder_settings, num_mels=features.num_mels)
        encoder.load_state_dict(weights, assign=True)
    except (SafetensorError, ConfigError, RuntimeError, TypeError) as error:
        raise ModelFileError(f"weights must fit the described encoder, got an error in {path} ({error}).") from error
    return SpeakerEncoder(features, encoder)
