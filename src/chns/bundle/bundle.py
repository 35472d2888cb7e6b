"""The model bundle: a folder that holds a trained model and everything needed to use it.

``model.safetensors`` holds the weights, ``config.json`` the architecture, the features, and what is known of training
and quality; ``model.onnx``, which a bundle may lack, the same model as a graph (`chns.bundle.bundle_graph`), which
needs no torch, so that none is imported here before it is needed. Loading needs no configuration; a bundle on the
Hugging Face Hub is named by ``hf://owner/name``, as are models of other toolkits (`chns.bundle.finding`).

A bundle is untrusted input: nothing is unpickled, only the encoders and features listed here and those of trusted
packages are built (`chns.core.factory` states the rule), and the network is laid out without memory until its size is
known to match the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chns import __version__
from chns.bundle.finding import (
    BUNDLE_FILES,
    DESCRIPTION_FILE,
    GRAPH_FILE,
    LARGEST_DESCRIPTION_BYTES,
    WEIGHTS_FILE,
    bundle_folder,
    require_bundle,
    require_local,
)
from chns.core import (
    ConfigError,
    ModelFileError,
    NonFiniteError,
    atomic_folder,
    atomic_path,
    in_short,
    make,
    quoted,
    require_ours,
    require_trusted,
)

if TYPE_CHECKING:
    import torch

    from chns.encoders import SpeakerEncoder

_FORMAT = "chns-model-1"
_LOCK = f".{DESCRIPTION_FILE}.lock"
_OURS = (*BUNDLE_FILES, GRAPH_FILE, _LOCK)
OUR_FACTORIES = {
    "encoder": frozenset(
        f"chns.encoders.{name}"
        for name in (
            "CamPlusPlus",
            "EcapaTdnn",
            "ReDimNet2",
            "ResNet",
            "ThinResNet",
            "cam_plus_plus",
            "ecapa_tdnn_512",
            "ecapa_tdnn_1024",
            "ecapa_tdnn_mobile",
            "redimnet2_b0",
            "redimnet2_b1",
            "redimnet2_b2",
            "redimnet2_b3",
            "resnet34",
            "resnet152",
            "resnet221",
            "resnet293",
            "simam_resnet34",
            "simam_resnet100",
            "thin_resnet34",
        )
    ),
    "features": frozenset({"chns.features.DecibelMel", "chns.features.LogMel", "chns.features.StandardisedMel"}),
}
_DEFAULT_FEATURES = "chns.features.LogMel"  # also of the bundles that do not name any


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a model, without its weights.

    Attributes:
        encoder: Import path of the encoder's class or function.
        encoder_settings: Its keyword arguments.
        features: Import path of the features' class or function; they have no weights of their own.
        feature_settings: Its keyword arguments.
    """

    encoder: str
    encoder_settings: Mapping[str, Any] = field(default_factory=dict)
    features: str = _DEFAULT_FEATURES
    feature_settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, *, empty: bool = False) -> SpeakerEncoder:
        """A model with fresh weights.

        Args:
            empty: Lay the encoder out on the meta device instead, which takes no memory, to adopt weights.

        Raises:
            ConfigError: If the features or the encoder cannot be made from their settings, or the features take more
                memory than any speech needs.
        """
        import torch

        from chns.bundle.bounded import require_sensible_frames
        from chns.encoders import SpeakerEncoder

        features = make(self.features, self.feature_settings)
        if not hasattr(features, "frame_lengths"):
            raise ConfigError(f"features must name a module such as chns.features.LogMel, got {quoted(self.features)}.")
        require_sensible_frames(features)
        with torch.device("meta") if empty else nullcontext():
            encoder = make(self.encoder, self.encoder_settings, num_mels=features.num_mels)
        if not isinstance(encoder, torch.nn.Module):
            raise ConfigError(f"encoder must name a module such as chns.encoders.ResNet, got {quoted(self.encoder)}.")
        return SpeakerEncoder(features, encoder)


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
    """Write a bundle; one that exists is replaced, and is never seen half written. Another folder never is.

    Args:
        folder: Where to.
        model: What was trained.
        architecture: What it was built from.
        training: Anything JSON holds: data, steps, settings.
        metrics: Anything JSON holds: error rates, with what they were measured on.

    Raises:
        FileExistsError: If the folder is there and is no bundle, or holds anything else as well.
        NonFiniteError: If a weight is NaN or infinite; a bundle that is there stays.
    """
    from safetensors.torch import save_file

    require_own_bundle(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.encoder.state_dict().items()}
    require_finite(weights, "of the encoder")
    with atomic_folder(folder, ours=_OURS) as temporary:
        save_file(weights, temporary / WEIGHTS_FILE)
        description = {
            "format": _FORMAT,
            "chns_version": __version__,
            **asdict(architecture),
            "sample_rate_hz": model.sample_rate_hz,
            "weights_sha256": weights_digest(model.encoder),
            "training": dict(training),
            "metrics": dict(metrics),
        }
        _write_description(temporary / DESCRIPTION_FILE, description)


def require_own_bundle(folder: Path, *, card: str | None = None) -> None:
    """Make sure that nothing but a bundle is lost when one is written into a folder.

    Args:
        folder: It may be missing or empty.
        card: Name of a further file that may lie beside the bundle's.

    Raises:
        FileExistsError: If something else is in it, or its description is not that of a bundle.
    """
    require_ours(folder, _OURS if card is None else (*_OURS, card))
    if folder.is_dir() and any(folder.iterdir()) and not _describes_a_bundle(folder / DESCRIPTION_FILE):
        present = ", ".join(sorted(repr(path.name) for path in folder.iterdir()))
        raise FileExistsError(
            f"folder to write must be new, empty or a bundle of chns, got {present} of another program in {folder}, "
            f"which would be lost. Choose another folder."
        )


def _describes_a_bundle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            description = json.loads(file.read(LARGEST_DESCRIPTION_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(description, dict) and str(description.get("format")).startswith(_FORMAT.rpartition("-")[0])


def require_finite(weights: Mapping[str, Any], where: str) -> None:
    """Refuse NaN and infinities, so that no file ever holds them.

    Args:
        weights: By name; what is no tensor of floating-point numbers is not looked at.
        where: Of what they are, for the error.

    Raises:
        NonFiniteError: If there is one.
    """
    import torch

    for name, tensor in weights.items():
        floating = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        if floating and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(
                f"weights {where} must be finite, got NaN or an infinity in {name}. They are not saved; "
                "train on from the last checkpoint with a lower learning rate."
            )


def add_metrics(folder: Path | str, metrics: Mapping[str, Any], *, digest: str) -> None:
    """Put metrics into a bundle that exists, atomically. Its weights, and so its identity, stay as they are.

    Several processes may do so at once; each waits for the others.

    Args:
        folder: What `save_bundle` wrote.
        metrics: Anything JSON holds; what the bundle has under the same name is replaced.
        digest: That of the weights that were measured.

    Raises:
        ValueError: If the model is one on the Hub.
        FileNotFoundError: If the folder or one of its files is missing.
        ModelFileError: If the bundle is damaged, of another format, or by now holds other weights.
    """
    require_local(folder)
    folder = Path(folder)
    require_bundle(folder)
    from filelock import FileLock

    with FileLock(folder / _LOCK):
        description = read_description(folder)
        if description["weights_sha256"] != digest:
            raise ModelFileError(
                f"weights must be those that were measured, got others in {folder}. "
                f"The model was replaced in the meantime; measure again."
            )
        description["metrics"].update(metrics)
        with atomic_path(folder / DESCRIPTION_FILE) as temporary:
            _write_description(temporary, description)


def load_bundle(model: Path | str, *, trusted_packages: Collection[str] = ()) -> Bundle:
    """Read a bundle.

    Args:
        model: A folder that `save_bundle` wrote, or ``hf://owner/name[@revision]``.
        trusted_packages: Packages, or complete import paths, whose encoders and features may be built too, which runs
            their code. They must come from the person who runs the program, never from a file beside the model.

    Raises:
        ModelFileError: If the bundle is damaged, of another format, or names code that is not trusted.
        FileNotFoundError: Also if there is a graph, but no weights.
        FileNotFoundError, ValueError, ChnsError, HubError: As `bundle_folder`.
    """
    folder = bundle_folder(model)
    _require_weights(folder)
    description = read_description(folder)
    architecture = Architecture(**{name: description[name] for name in Architecture.__dataclass_fields__})
    for part, ours in OUR_FACTORIES.items():
        source = str(folder / DESCRIPTION_FILE)
        require_trusted(part, getattr(architecture, part), ours=ours, trusted=trusted_packages, source=source)
    loaded = _with_weights(architecture, folder / WEIGHTS_FILE)
    digest = weights_digest(loaded.encoder)
    if digest != description["weights_sha256"]:
        raise ModelFileError(f"weights must have the digest that {DESCRIPTION_FILE} states, got another in {folder}.")
    return Bundle(loaded.eval(), architecture, digest, description["training"], description["metrics"])


def read_description(folder: Path) -> dict[str, Any]:
    """What a bundle says of itself: its ``config.json``, checked.

    Raises:
        ModelFileError: If it is damaged, or of another format.
    """
    path = folder / DESCRIPTION_FILE
    if path.stat().st_size > LARGEST_DESCRIPTION_BYTES:
        raise ModelFileError(f"description must be at most {LARGEST_DESCRIPTION_BYTES} bytes, got more in {path}.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"description must be JSON, got something else in {path} ({error}).") from error
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise ModelFileError(f"model must be of format {_FORMAT}, got another in {path}.")
    description.setdefault("features", _DEFAULT_FEATURES)
    wanted = {
        "encoder": str,
        "encoder_settings": dict,
        "features": str,
        "feature_settings": dict,
        "weights_sha256": str,
        "training": dict,
        "metrics": dict,
    }
    for name, kind in wanted.items():
        if not isinstance(description.get(name), kind):
            found = quoted(description.get(name))
            raise ModelFileError(f"{name} must be of type {kind.__name__}, got {found} in {path}.")
    return description


def put_graph(folder: Path, write: Callable[[Path], Mapping[str, Any]], *, digest: str) -> None:
    """Put a graph into a bundle that exists; if it cannot be written, the bundle stays as it was.

    Args:
        folder: What `save_bundle` wrote.
        write: Writes the graph under the given name, and gives what ``config.json`` says of it.
        digest: That of the weights that the graph was made from.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ModelFileError: If the bundle is damaged, of another format, or holds other weights.
    """
    require_bundle(folder)
    _require_weights(folder)
    description = read_description(folder)
    if description["weights_sha256"] != digest:
        raise ModelFileError(f"weights must be those that the graph was made from, got others in {folder}.")
    with atomic_path(folder / GRAPH_FILE) as temporary:
        description["graph"] = dict(write(temporary))
    with atomic_path(folder / DESCRIPTION_FILE) as temporary:  # in between, the graph does not fit its digest
        _write_description(temporary, description)


def load_model(model: Path | str, *, trusted_packages: Collection[str] = ()) -> SpeakerEncoder:
    """The model of a bundle, in evaluation mode. See `load_bundle`.

    Examples:
        >>> from chns import load_model
        >>> load_model("runs/chns/model").sample_rate_hz
        16000
    """
    return load_bundle(model, trusted_packages=trusted_packages).model


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 of a module's weights: tells which state of an encoder made something."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _require_weights(folder: Path) -> None:
    if not (folder / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(
            f"model must hold {WEIGHTS_FILE} for this, got only a graph in {folder}. Such a model "
            "verifies, enrols and identifies; to train, convert or export, take the one that it was made from."
        )


def _write_description(path: Path, description: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _with_weights(architecture: Architecture, path: Path) -> SpeakerEncoder:
    """An empty model that adopts the file's tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from chns.bundle.bounded import parameters_limited

    try:
        weights = load_file(path)
        with parameters_limited(1_000 + 10 * len(weights)):  # some are registered and then replaced by others
            model = architecture.build(empty=True)
        _require_kinds(weights, model.encoder)
        model.encoder.load_state_dict(weights, assign=True)
    except (
        SafetensorError,
        RuntimeError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
    ) as error:
        raise ModelFileError(
            f"weights must fit the described encoder, got an error in {path} ({in_short(error)})."
        ) from error
    return model


def _require_kinds(weights: Mapping[str, torch.Tensor], encoder: torch.nn.Module) -> None:
    """Tensors of another kind would be adopted, and fail when the model is used."""
    for name, own in encoder.state_dict().items():
        if name in weights and weights[name].dtype != own.dtype:
            raise ModelFileError(f"weights must be {own.dtype}, got {weights[name].dtype} of {name}.")
