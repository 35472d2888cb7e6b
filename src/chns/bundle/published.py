"""Make a bundle of a model that another toolkit publishes, if it is what we take it for.

Weights do not say what they are to hear: that stands in the YAML beside them. It is read as plain data, no class in it
is ever looked up, and each of its settings is obeyed, or is the one that our layer has, or the model is refused with
the setting's name. A file with settings that nobody here knows is refused too, for a guess would go unnoticed: a model
that hears other features still tells speakers apart, only badly.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from chns.bundle.bounded import Checkpoint, read_checkpoint
from chns.bundle.bundle import Architecture, Bundle, load_bundle, require_own_bundle, save_bundle
from chns.bundle.bundle_graph import add_graph_if_possible
from chns.bundle.finding import BUNDLE_FILES, GRAPH_FILE, Published, bundle_folder
from chns.bundle.layouts import (
    Foreign,
    Weights,
    built,
    cam_plus_plus,
    ecapa_tdnn,
    file_digest,
    redimnet2,
    resnet,
    wespeaker_ecapa_tdnn,
)
from chns.core import ConfigError, ModelFileError, atomic_folder, bounded_text, in_short, quoted, require_small_yaml
from chns.features import StandardisedMel

_BUNDLE = (*BUNDLE_FILES, GRAPH_FILE)
_REFERENCE = re.compile(r"<(\w+)>")
_DEEPEST_REFERENCE = 10
_USUAL_RATE_HZ = 16_000
_MEL_TOLERANCE = 1e-4


class Made(NamedTuple):
    """What YAML asks a class for: an object that is never made.

    Attributes:
        kind: The tag's text, such as ``new:package.Class`` or ``ref``.
        settings: Its arguments, or the text or list that stands there.
    """

    kind: str
    settings: Any


def convert(published: Published, folder: Path, out: Path, *, source: str) -> None:
    """Write the bundle of a published model, with its graph if possible.

    Args:
        published: What its files are.
        folder: Where they are; untrusted.
        out: Where the bundle goes.
        source: What the model was called, for errors and for the bundle.

    Raises:
        ModelFileError: If it is none that our encoders and features can be.
        FileExistsError: If ``out`` holds anything but a bundle.
    """
    checkpoint = read_checkpoint(folder / published.weights)
    try:
        weights, foreign = READERS[published.layout.toolkit](checkpoint, folder)
        model = built(weights, foreign)
    except (ModelFileError, ConfigError) as error:
        raise ModelFileError(f"{error} It was {source}, read as a model of {published.layout.toolkit}.") from error
    training = {
        "imported_from": published.layout.toolkit,
        "source": source,
        "file": published.weights,
        "sha256": file_digest(folder / published.weights),
    }
    with atomic_folder(out, ours=_BUNDLE) as temporary:  # complete, or not there at all
        save_bundle(temporary, model, foreign.architecture, training=training, metrics={})
        add_graph_if_possible(temporary, load_bundle(temporary).model, called=source)


def own_copy(model: str, out: Path) -> Bundle:
    """Write the bundle that a model's name means to a folder of one's own, which may be changed.

    Args:
        model: As of `chns.bundle.finding.bundle_folder`.
        out: Where it goes; a bundle that exists is replaced, any other folder never is.

    Raises:
        FileExistsError: If the folder holds anything but a bundle.
        FileNotFoundError, ModelFileError, ValueError, ChnsError, HubError: As `bundle_folder`.
    """
    require_own_bundle(out)
    folder = bundle_folder(model)
    with atomic_folder(out, ours=_BUNDLE) as temporary:
        for name in _BUNDLE:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, temporary / name)
        load_bundle(temporary)
    return load_bundle(out)


def plain_yaml(path: Path) -> Any:
    """The content of a YAML file whose tags name classes: they become `Made`, and references are followed.

    Raises:
        ModelFileError: If it is no YAML, too large, or refers to what is not there.
    """
    import yaml

    class PlainLoader(yaml.SafeLoader):
        pass

    def made(loader: yaml.SafeLoader, kind: str, node: yaml.Node) -> Made:
        if isinstance(node, yaml.MappingNode):
            return Made(kind, loader.construct_mapping(node, deep=True))
        if isinstance(node, yaml.SequenceNode):
            return Made(kind, loader.construct_sequence(node, deep=True))
        return Made(kind, str(node.value))

    PlainLoader.add_multi_constructor("!", made)
    try:
        text = bounded_text(path)
        require_small_yaml(text)
        content = yaml.load(text, Loader=PlainLoader)  # noqa: S506 - a safe one
        return _followed(content, content, depth=0)
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise ModelFileError(f"YAML must be well-formed and small, got {path.name} ({in_short(error)}).") from error


def _followed(value: Any, top: Any, *, depth: int) -> Any:
    """The value with ``!ref <name>`` replaced by what stands under that name; other references stay as they are."""
    if depth > _DEEPEST_REFERENCE:
        raise ValueError("references in YAML must end somewhere, got one that leads back to itself")
    if isinstance(value, Made):
        reference = _REFERENCE.fullmatch(value.settings) if isinstance(value.settings, str) else None
        if value.kind == "ref" and reference is not None and isinstance(top, dict) and reference[1] in top:
            return _followed(top[reference[1]], top, depth=depth + 1)
        return Made(value.kind, _followed(value.settings, top, depth=depth + 1))
    if isinstance(value, dict):
        return {str(name): _followed(inner, top, depth=depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_followed(inner, top, depth=depth + 1) for inner in value]
    return value


class Stated:
    """Settings that a file states, of which each is asked for or accounted for.

    Args:
        settings: By name.
        where: What they are of, for errors.
    """

    def __init__(self, settings: Any, where: str) -> None:
        if not isinstance(settings, Mapping):
            raise ModelFileError(f"{where} must state settings, got {quoted(settings)}.")
        self._settings = dict(settings)
        self._where = where

    def made(self, name: str, kind: str) -> Stated:
        """Settings of the object of that name, which must be of that class.

        Raises:
            ModelFileError: If it is missing or another.
        """
        value = self._settings.pop(name, None)
        if not isinstance(value, Made) or value.kind != f"new:{kind}":
            got = "none" if value is None else quoted(value.kind if isinstance(value, Made) else value)
            raise ModelFileError(f"{name} must be {kind}, got {got} in {self._where}.")
        return Stated(value.settings or {}, f"{self._where}, {name}")

    def inner(self, name: str) -> Stated:
        """Settings under a name; none if there is no such."""
        return Stated(self._settings.pop(name, None) or {}, f"{self._where}, {name}")

    def number(self, name: str, default: float | None, low: float, high: float) -> float:
        """A number between two bounds.

        Raises:
            ModelFileError: If it is none, or missing without a default.
        """
        value = self._settings.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ModelFileError(f"{name} must be between {low:g} and {high:g}, got {quoted(value)} in {self._where}.")
        return value

    def must_be(self, default: Any = None, /, **wanted: Any) -> None:
        """Make sure of settings that have to be as our layers have them.

        Args:
            default: What leaving one out means; by default the wanted value itself.
            wanted: Their values; a tuple lists all that will do.

        Raises:
            ModelFileError: If one is another.
        """
        for name, value in wanted.items():
            allowed = value if isinstance(value, tuple) else (value,)
            got = self._settings.pop(name, allowed[0] if default is None else default)
            if got not in allowed:
                shown = " or ".join(map(str, allowed))
                raise ModelFileError(
                    f"{name} must be {shown}, which is what chns computes, got {quoted(got)} in {self._where}."
                )

    def ignore(self, *names: str) -> None:
        """Settings that do not change what a trained model computes."""
        for name in names:
            self._settings.pop(name, None)

    def get(self, name: str, default: Any = None) -> Any:
        """The value under a name."""
        return self._settings.pop(name, default)

    def require_no_more(self) -> None:
        """Make sure that all are accounted for.

        Raises:
            ModelFileError: If there are others.
        """
        if self._settings:
            names = ", ".join(quoted(name) for name in sorted(self._settings)[:4])
            raise ModelFileError(f"settings must be known, got {names} in {self._where}.")


def _speechbrain(checkpoint: Checkpoint, folder: Path) -> tuple[Weights, Foreign]:
    """A speaker recogniser of SpeechBrain with an ECAPA-TDNN: its features, its normalisation and its dilations."""
    modules = Stated(plain_yaml(folder / "hyperparams.yaml"), "hyperparams.yaml").inner("modules")
    fbank = modules.made("compute_features", "speechbrain.lobes.features.Fbank")
    norm = modules.made("mean_var_norm", "speechbrain.processing.features.InputNormalization")
    encoder = modules.made("embedding_model", "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN")

    rate_hz = int(fbank.number("sample_rate", 16_000, 4_000, 48_000))
    frame_seconds = fbank.number("win_length", 25, 5, 100) / 1_000
    features = {
        "num_mels": int(fbank.number("n_mels", 40, 1, 512)),
        "sample_rate_hz": rate_hz,
        "frame_seconds": frame_seconds,
        "hop_seconds": fbank.number("hop_length", 10, 1, 100) / 1_000,
    }
    fbank.must_be(400, n_fft=round(frame_seconds * rate_hz))
    fbank.must_be(f_min=0, f_max=(None, rate_hz / 2), deltas=False, context=False, filter_shape="triangular")
    fbank.ignore("requires_grad", "left_frames", "right_frames", "param_change_factor", "param_rand_factor")
    fbank.require_no_more()

    norm.must_be("global", norm_type="sentence")
    norm.must_be(True, std_norm=False)
    features["subtract_mean"] = norm.get("mean_norm", True) is True
    norm.ignore("avg_factor", "requires_grad", "update_until_epoch")
    norm.require_no_more()

    foreign = ecapa_tdnn(checkpoint.weights)
    settings = foreign.architecture.encoder_settings
    dilations = encoder.get("dilations", [1, 2, 3, 4, 1])
    if not isinstance(dilations, list) or dilations[-1:] != [1] or len(dilations) != 5:
        raise ModelFileError(f"dilations must be five, the last 1, got {quoted(dilations)} in hyperparams.yaml.")
    encoder.must_be(features["num_mels"], input_size=foreign.architecture.feature_settings["num_mels"])
    encoder.must_be(8, res2net_scale=settings["res2net_scale"])
    encoder.must_be(True, global_context=settings["variant"]["global_context"])
    encoder.must_be(groups=[1] * 5)
    activation = encoder.get("activation", Made("name:torch.nn.ReLU", ""))
    if not isinstance(activation, Made) or activation.kind not in ("name:torch.nn.ReLU", "new:torch.nn.ReLU"):
        raise ModelFileError(f"activation must be torch.nn.ReLU, got {quoted(activation)} in hyperparams.yaml.")
    encoder.ignore("channels", "kernel_sizes", "attention_channels", "lin_neurons", "se_channels", "dropout", "device")
    encoder.require_no_more()

    variant = {**settings["variant"], "dilations": dilations[:-1]}
    architecture = replace(
        foreign.architecture, feature_settings=features, encoder_settings={**settings, "variant": variant}
    )
    return checkpoint.weights, foreign._replace(architecture=architecture)


_WESPEAKER_MODELS: Sequence[tuple[str, str, Callable[[Weights], Foreign]]] = (
    (r"ECAPA_TDNN(_GLOB)?_c\d+", "ASTP", wespeaker_ecapa_tdnn),
    (r"ResNet\d+", "TSTP", resnet),
    (r"CAMPPlus", "TSTP", cam_plus_plus),
)


def _wespeaker(checkpoint: Checkpoint, folder: Path) -> tuple[Weights, Foreign]:
    """A model of WeSpeaker's recipes: 80 mels under a Hamming window, less their mean."""
    config = Stated(plain_yaml(folder / "config.yaml"), "config.yaml")
    name = str(config.get("model"))
    known = [row for row in _WESPEAKER_MODELS if re.fullmatch(row[0], name)]
    if not known:
        raise ModelFileError(
            f"model must be an ECAPA_TDNN, a ResNet or a CAMPPlus, got {quoted(name)} in config.yaml. Others work as a "
            "graph with the metadata of sherpa-onnx."
        )
    _, pooling, reader = known[0]
    foreign = reader(checkpoint.weights)
    num_mels = foreign.architecture.feature_settings["num_mels"]
    network = config.inner("model_args")
    network.must_be(num_mels, feat_dim=num_mels)
    network.must_be(pooling_func=pooling, two_emb_layer=False, emb_bn=False)

    data = config.inner("dataset_args")
    rate_hz = int(data.number("resample_rate", 16_000, 4_000, 48_000))
    data.must_be(frontend="fbank", feat_type="fbank", raw_wav=False, cmvn=True)
    data.inner("cmvn_args").must_be(norm_mean=True, norm_var=False)
    fbank = data.inner("fbank_args")
    fbank.must_be(80, num_mel_bins=num_mels)
    fbank.must_be(frame_length=25, frame_shift=10, window_type="hamming")
    fbank.ignore("dither")  # noise while training
    fbank.require_no_more()
    return checkpoint.weights, _hearing(foreign, sample_rate_hz=rate_hz, window="hamming")


def _pyannote(checkpoint: Checkpoint, folder: Path) -> tuple[Weights, Foreign]:
    """Pyannote's wrapper of WeSpeaker's ResNets: the same features, and each weight's name begins with ``resnet.``."""
    model = Stated(plain_yaml(folder / "config.yaml"), "config.yaml").inner("model")
    kind = str(model.get("_target_"))
    if re.fullmatch(r"pyannote\.audio\.models\.embedding\.WeSpeakerResNet\d+", kind) is None:
        raise ModelFileError(f"model must be a WeSpeakerResNet of pyannote.audio, got {quoted(kind)} in config.yaml.")
    weights = {name.removeprefix("resnet."): tensor for name, tensor in checkpoint.weights.items()}
    foreign = resnet(weights)
    model.must_be(80, num_mel_bins=foreign.architecture.feature_settings["num_mels"])
    model.must_be(num_channels=1, frame_length=25, frame_shift=10, window_type="hamming", use_energy=False)
    model.must_be(round_to_power_of_two=True, snip_edges=True, fbank_centering_span=None)
    model.must_be(0, dither=(0, 0.0))
    rate_hz = int(model.number("sample_rate", 16_000, 4_000, 48_000))
    model.require_no_more()
    return weights, _hearing(foreign, sample_rate_hz=rate_hz, window="hamming")


def _three_d_speaker(checkpoint: Checkpoint, folder: Path) -> tuple[Weights, Foreign]:
    """A CAM++ of 3D-Speaker; the rate and the mels of all that it publishes are ours."""
    foreign = cam_plus_plus(checkpoint.weights)
    described = folder / "configuration.json"
    if described.is_file():
        stated = Stated(_plain_json(described), "configuration.json").inner("model").inner("model_config")
        stated.must_be(sample_rate=16_000, fbank_dim=foreign.architecture.feature_settings["num_mels"])
    return checkpoint.weights, foreign


_REDIMNET_STAGES = [
    [[1, 1], 2, 4, [[3, 3]], 24],
    [[2, 1], 3, 3, [[3, 3]], 24],
    [[1, 2], 4, 2, [[3, 3]], 24],
    [[2, 1], 5, 1, [[3, 3]], 24],
    [[1, 2], 4, 1, [[3, 3]], 24],
    [[2, 1], 3, 1, [[3, 3]], 24],
]


def _redimnet2(checkpoint: Checkpoint, _: Path) -> tuple[Weights, Foreign]:
    """ReDimNet2, whose file describes it: the sizes, and its own mels, which the file also holds."""
    config = Stated(checkpoint.beside.get("model_config"), "model_config")
    stages = [_redimnet_stage(stage) for stage in config.get("stages_setup", _REDIMNET_STAGES)]
    config.must_be("pt", feat_type=("tf", "tf_mel"))
    config.must_be(True, causal=("none", False))
    config.must_be(False, agg_gnorm=True, return_2d_output=True)
    config.must_be(block_1d_type="conv+att", block_2d_type="basic_resnet", fm_weigthing_type="NC", pooling_func="ASTP")
    config.must_be(compress_tconvs=True, global_context_att=True, spec_in_channels=1, group_divisor=1)
    config.must_be(use_freq_pos_enc=False, dual_agg=False, emb_bn=False, return_all_outputs=False)
    config.must_be(pad_right_samples=None, before_pool_offset=None)
    spec = config.inner("spec_params")
    spec.must_be(False, norm_signal=True)
    spec.must_be(do_preemph=True, sample_rate=_USUAL_RATE_HZ, n_fft=512, win_length=400, f_min=20, f_max=7600, eps=1e-8)
    spec.ignore("do_spec_aug", "freq_start_bin", "freq_mask_width", "time_mask_width", "num_apply_spec_aug")
    spec.require_no_more()
    mels, hop = int(config.number("F", 72, 1, 256)), config.number("hop_length", 160, 40, 400)
    out_channels = config.get("out_channels")
    settings = {
        "channels": int(config.number("C", 24, 1, 1_024)),
        "stages": stages,
        "embedding_dim": int(config.number("embed_dim", 192, 1, 4_096)),
        **({} if out_channels is None else {"out_channels": out_channels}),
    }
    config.ignore("num_classes", "feat_agg_dropout", "head_activation", "att_dos")
    config.require_no_more()
    features = {"num_mels": mels, **({} if hop == 160 else {"hop_seconds": hop / _USUAL_RATE_HZ})}
    _require_their_mels(checkpoint.weights, mels)
    architecture = Architecture(
        features="chns.features.StandardisedMel",
        feature_settings=features,
        encoder="chns.encoders.ReDimNet2",
        encoder_settings=settings,
    )
    return checkpoint.weights, redimnet2(stages, architecture)


def _redimnet_stage(stage: Any) -> dict[str, int]:
    """One of ``stages_setup``: strides, blocks, expansion, kernels, reduction. ReDimNet's own of 2024 have others."""
    try:
        (bands, frames), blocks, expansion, kernels, reduction = stage
        sizes = {"band_stride": bands, "frame_stride": frames, "blocks": blocks}
        sizes |= {"expansion": expansion, "reduction": reduction}
        fits = [tuple(kernel) for kernel in kernels] == [(3, 3)] and all(
            type(size) is int and 1 <= size <= 256 for size in sizes.values()
        )
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ModelFileError(
            f"stages_setup must be of ReDimNet2, whose stages are ((bands, frames), blocks, expansion, [(3, 3)], "
            f"reduction), got {quoted(stage)} in model_config. ReDimNet of 2024 is another network, which is not held."
        )
    return sizes


def _require_their_mels(weights: Weights, num_mels: int) -> None:
    """The file holds the filters that it was trained with: those that are computed here must be the same."""
    theirs = [tensor for name, tensor in weights.items() if name.startswith("spec.") and name.endswith("melbanks_pt")]
    ours = StandardisedMel(num_mels=num_mels).filters
    if len(theirs) != 1 or theirs[0].numel() != ours.numel():
        raise ModelFileError("model must hold its mel filters, spec.*.melbanks_pt, one a mel, got none or others.")
    difference = (theirs[0].reshape(num_mels, -1).T - ours).abs().max().item()
    if difference > _MEL_TOLERANCE:
        raise ModelFileError(f"mel filters must be those of ReDimNet2, got others, up to {difference:.2g} apart.")


def _hearing(foreign: Foreign, **features: Any) -> Foreign:
    """The same with other settings of the features; those that are the default are left out."""
    settings = {**foreign.architecture.feature_settings, **features}
    if settings["sample_rate_hz"] == _USUAL_RATE_HZ:
        del settings["sample_rate_hz"]
    return foreign._replace(architecture=replace(foreign.architecture, feature_settings=settings))


def _plain_json(path: Path) -> Any:
    try:
        return json.loads(bounded_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"file must be JSON, got something else in {path.name} ({in_short(error)}).") from error


READERS: Mapping[str, Callable[[Checkpoint, Path], tuple[Weights, Foreign]]] = {
    "SpeechBrain": _speechbrain,
    "WeSpeaker": _wespeaker,
    "pyannote": _pyannote,
    "3D-Speaker": _three_d_speaker,
    "ReDimNet2": _redimnet2,
}
