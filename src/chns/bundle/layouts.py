"""Other toolkits' checkpoints as model bundles: the layouts of SpeechBrain, WeSpeaker and 3D-Speaker.

SpeechBrain's ECAPA-TDNN is the file ``embedding_model.ckpt`` of its speaker recognisers, WeSpeaker's ECAPA-TDNN and
ResNets the files ``avg_model.pt`` of its recipes, 3D-Speaker's CAM++ the files ``campplus_*`` of its releases.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chns.bundle.bounded import parameters_limited, read_checkpoint
from chns.bundle.bundle import Architecture, Bundle, load_bundle, require_own_bundle, save_bundle
from chns.bundle.bundle_graph import add_graph_if_possible
from chns.core import ConfigError, ModelFileError, quoted
from chns.encoders import SpeakerEncoder

Weights = Mapping[str, Tensor]
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

_SHOWN = 6


class Foreign(NamedTuple):
    """What another toolkit's checkpoint turned out to be.

    Attributes:
        architecture: How the same network is built here.
        rules: Patterns and replacements that turn our names into theirs, applied in order.
        ignored: Start of their names that are no part of the encoder, such as a classification head.
        reordered: For names of ours, what is done to their tensor so that its channels are in our order.
    """

    architecture: Architecture
    rules: Rules
    ignored: tuple[str, ...] = ()
    reordered: Mapping[str, Callable[[Tensor], Tensor]] = {}


def size(weights: Weights, name: str, axis: int) -> int:
    """One size of a tensor that tells how wide the network is.

    Raises:
        ModelFileError: If there is no such tensor, or it has no such axis.
    """
    tensor = weights.get(name)
    if tensor is None or tensor.ndim <= axis or tensor.numel() == 0:
        got = "none" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise ModelFileError(f"checkpoint must hold a tensor {quoted(name)} of more than {axis} axes, got {got}.")
    return tensor.shape[axis]


def count(weights: Weights, pattern: str) -> int:
    """How many tensors have names of that pattern, with ``{}`` for 0, 1, 2 and so on."""
    number = 0
    while pattern.format(number) in weights:
        number += 1
    return number


def our_weights(weights: Weights, foreign: Foreign, encoder: nn.Module) -> dict[str, Tensor]:
    """The state dict of an encoder of ours, from their tensors.

    Args:
        weights: Theirs.
        foreign: What they are.
        encoder: Gives names and shapes; may be on the meta device.

    Raises:
        ModelFileError: If a tensor is missing, left over or of another shape; all are listed, under their names.
    """
    missing, misshapen = [], []
    ours: dict[str, Tensor] = {}
    used = set()
    for name, wanted in encoder.state_dict().items():
        their_name = _renamed(name, foreign.rules)
        used.add(their_name)
        tensor = weights.get(their_name)
        if tensor is None and name.endswith("num_batches_tracked"):  # absent from old checkpoints
            tensor = torch.tensor(0)
        if tensor is None:
            missing.append(their_name)
        elif _without_ones(tensor) != _without_ones(wanted):
            misshapen.append(f"{their_name} {tuple(tensor.shape)} instead of {tuple(wanted.shape)}")
        else:
            reorder = foreign.reordered.get(name)
            shaped = tensor.reshape(wanted.shape)
            ours[name] = shaped if reorder is None else reorder(shaped)
    unexpected = sorted(name for name in weights if name not in used and not name.startswith(foreign.ignored))
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(found.values()):
        listed = "; ".join(f"{len(names)} {what}: {_shown(names)}" for what, names in found.items() if names)
        raise ModelFileError(f"checkpoint must hold exactly the tensors of that encoder, got {listed}.")
    return ours


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _without_ones(tensor: Tensor) -> tuple[int, ...]:
    """A linear layer and a convolution of one frame hold the same numbers."""
    return tuple(size for size in tensor.shape if size != 1)


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


_NUM_BLOCKS = 3

_RULES: Rules = [
    (r"\.(conv|norm)\.", r".\1.\1."),
    (r"^blocks\.(\d)\.", lambda match: f"blocks.{int(match[1]) + 1}."),
    (r"^first\.", "blocks.0."),
    (r"\.before\.", ".tdnn1."),
    (r"\.res2net\.", ".res2net_block."),
    (r"\.after\.", ".tdnn2."),
    (r"\.se\.squeeze\.", ".se_block.conv1.conv."),
    (r"\.se\.excite\.", ".se_block.conv2.conv."),
    (r"^aggregation\.", "mfa."),
    (r"^pooling\.hidden\.", "asp.tdnn.conv.conv."),
    (r"^pooling\.norm\.", "asp.tdnn.norm."),
    (r"^pooling\.score\.", "asp.conv.conv."),
    (r"^pooling_norm\.", "asp_bn.norm."),
    (r"^embedding\.", "fc.conv."),
]


def ecapa_tdnn(weights: Weights) -> Foreign:
    """What a checkpoint of SpeechBrain's ``ECAPA_TDNN`` is here.

    Dilations and features are those of its VoxCeleb recipe: 1, 2, 3, 4, and 80 mels of `chns.features.DecibelMel`.

    Raises:
        ModelFileError: If a tensor that tells a width is missing.
    """
    first, block, attention = (
        "blocks.0.conv.conv.weight",
        "blocks.{}.res2net_block.blocks.{}.conv.conv.weight",
        "asp.tdnn.conv.conv.weight",
    )
    num_mels, aggregation = size(weights, first, 1), size(weights, "mfa.conv.conv.weight", 0)
    kernels = [size(weights, block.format(number + 1, 0), 2) for number in range(_NUM_BLOCKS)]
    architecture = Architecture(
        features="chns.features.DecibelMel",
        feature_settings={"num_mels": num_mels},
        encoder="chns.encoders.EcapaTdnn",
        encoder_settings={
            "channels": size(weights, first, 0),
            "aggregation_channels": aggregation,
            "res2net_scale": count(weights, block.format(1, "{}")) + 1,
            "se_bottleneck": size(weights, "blocks.1.se_block.conv1.conv.weight", 0),
            "attention_channels": size(weights, attention, 0),
            "embedding_dim": size(weights, "fc.conv.weight", 0),
            "variant": {
                "kernels": [size(weights, first, 2), *kernels],
                "padding": "reflect",
                "global_context": size(weights, attention, 1) == 3 * aggregation,
            },
        },
    )
    return Foreign(architecture, _RULES)


_NUM_STAGES = 4
_HEAD = ("projection.",)

_ECAPA_RULES: Rules = [
    (r"^first\.", "layer1."),
    (r"^blocks\.(\d)\.", lambda match: f"layer{int(match[1]) + 2}.se_res2block."),
    (r"\.before\.", ".0."),
    (r"\.res2net\.blocks\.(\d+)\.conv\.", r".1.convs.\1."),
    (r"\.res2net\.blocks\.(\d+)\.norm\.", r".1.bns.\1."),
    (r"\.after\.", ".2."),
    (r"\.se\.squeeze\.", ".3.linear1."),
    (r"\.se\.excite\.", ".3.linear2."),
    (r"\.norm\.", ".bn."),
    (r"^aggregation\.conv\.", "conv."),
    (r"^pooling\.hidden\.", "pool.linear1."),
    (r"^pooling\.score\.", "pool.linear2."),
    (r"^pooling_norm\.", "bn."),
    (r"^embedding\.", "linear."),
]

_RESNET_RULES: Rules = [
    (r"^conv\.", "conv1."),
    (r"^norm\.", "bn1."),
    (r"^stages\.(\d)\.", lambda match: f"layer{int(match[1]) + 1}."),
    (r"\.norm(\d)\.", r".bn\1."),
    (r"^embedding\.", "seg_1."),
]


def wespeaker_ecapa_tdnn(weights: Weights) -> Foreign:
    """What a checkpoint of WeSpeaker's ``ECAPA_TDNN`` is here.

    Its Res2Net blocks leave the last group of channels as it is, ours the first, so channels are rotated.

    Raises:
        ModelFileError: If a tensor that tells a width is missing.
    """
    first, groups = "layer1.conv.weight", "layer{}.se_res2block.1.convs.{}.weight"
    channels, aggregation = size(weights, first, 0), size(weights, "conv.weight", 0)
    kernels = [size(weights, groups.format(number + 2, 0), 2) for number in range(_NUM_BLOCKS)]
    architecture = Architecture(
        feature_settings={"num_mels": size(weights, first, 1), "window": "hamming"},
        encoder="chns.encoders.EcapaTdnn",
        encoder_settings={
            "channels": channels,
            "aggregation_channels": aggregation,
            "res2net_scale": count(weights, groups.format(2, "{}")) + 1,
            "se_bottleneck": size(weights, "layer2.se_res2block.3.linear1.weight", 0),
            "attention_channels": size(weights, "pool.linear1.weight", 0),
            "embedding_dim": size(weights, "linear.weight", 0),
            "variant": {
                "kernels": [size(weights, first, 2), *kernels],
                "global_context": size(weights, "pool.linear1.weight", 1) == 3 * aggregation,
                "plain_head": True,
            },
        },
    )
    width = size(weights, groups.format(2, 0), 0)
    reordered = {}
    for number in range(_NUM_BLOCKS):
        reordered[f"blocks.{number}.after.conv.weight"] = lambda tensor: torch.roll(tensor, width, dims=1)
        for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
            reordered[f"blocks.{number}.before.{name}"] = lambda tensor: torch.roll(tensor, width, dims=0)
    return Foreign(architecture, _ECAPA_RULES, ignored=_HEAD, reordered=reordered)


def resnet(weights: Weights) -> Foreign:
    """What a checkpoint of WeSpeaker's ``ResNet`` is here, from the 34 layers to the 293.

    Raises:
        ModelFileError: If a tensor that tells a width is missing.
    """
    channels = [size(weights, f"layer{stage + 1}.0.conv1.weight", 0) for stage in range(_NUM_STAGES)]
    bottleneck = "layer1.0.conv3.weight" in weights
    bands = size(weights, "seg_1.weight", 1) // (2 * channels[-1] * (4 if bottleneck else 1))
    architecture = Architecture(
        feature_settings={"num_mels": bands * 2 ** (_NUM_STAGES - 1), "window": "hamming"},
        encoder="chns.encoders.ResNet",
        encoder_settings={
            "channels": channels,
            "blocks": [count(weights, f"layer{stage + 1}.{{}}.conv1.weight") for stage in range(_NUM_STAGES)],
            **({"block": "bottleneck"} if bottleneck else {}),
            "embedding_dim": size(weights, "seg_1.weight", 0),
        },
    )
    return Foreign(architecture, _RESNET_RULES, ignored=_HEAD)


_CAM_RULES: Rules = [
    (r"^front\.conv(\d)\.", r"head.conv\1."),
    (r"^front\.norm(\d)\.", r"head.bn\1."),
    (r"^front\.blocks\.(\d)\.", lambda match: f"head.layer{int(match[1]) // 2 + 1}.{int(match[1]) % 2}."),
    (r"^(head\.layer.*)\.norm(\d)\.", r"\1.bn\2."),
    (r"^first\.", "xvector.tdnn.linear."),
    (r"^first_norm\.", "xvector.tdnn.nonlinear.batchnorm."),
    (r"^blocks\.(\d+)\.(\d+)\.", lambda match: f"xvector.block{int(match[1]) + 1}.tdnnd{int(match[2]) + 1}."),
    (r"\.(tdnnd\d+)\.norm(\d)\.", r".\1.nonlinear\2.batchnorm."),
    (r"\.mix\.", ".linear1."),
    (r"\.masked\.conv\.", ".cam_layer.linear_local."),
    (r"\.masked\.squeeze\.", ".cam_layer.linear1."),
    (r"\.masked\.excite\.", ".cam_layer.linear2."),
    (r"^transitions\.(\d)\.0\.", lambda match: f"xvector.transit{int(match[1]) + 1}.nonlinear.batchnorm."),
    (r"^transitions\.(\d)\.2\.", lambda match: f"xvector.transit{int(match[1]) + 1}.linear."),
    (r"^last_norm\.", "xvector.out_nonlinear.batchnorm."),
    (r"^embedding\.", "xvector.dense.linear."),
    (r"^embedding_norm\.", "xvector.dense.nonlinear.batchnorm."),
]


def cam_plus_plus(weights: Weights) -> Foreign:
    """What a checkpoint of 3D-Speaker's ``CAMPPlus`` is here.

    Raises:
        ModelFileError: If a tensor that tells a width is missing.
    """
    front = size(weights, "head.conv1.weight", 0)
    architecture = Architecture(
        feature_settings={"num_mels": 8 * size(weights, "xvector.tdnn.linear.weight", 1) // front},
        encoder="chns.encoders.CamPlusPlus",
        encoder_settings={
            "front_channels": front,
            "channels": size(weights, "xvector.tdnn.linear.weight", 0),
            "growth": size(weights, "xvector.block1.tdnnd1.cam_layer.linear_local.weight", 0),
            "layers": [_num_layers(weights, number + 1) for number in range(_NUM_BLOCKS)],
            "embedding_dim": size(weights, "xvector.dense.linear.weight", 0),
        },
    )
    return Foreign(architecture, _CAM_RULES)


def _num_layers(weights: Weights, block: int) -> int:
    pattern = re.compile(rf"xvector\.block{block}\.tdnnd(\d+)\.linear1\.weight")
    return len([name for name in weights if pattern.fullmatch(name)])


_OF_BLOCK: Mapping[str, str] = {"depthwise": "conv{}", "pointwise": "conv{}pw", "norm": "bn{}"}
_OF_ATTENTION: Mapping[str, str] = {"query": "q", "key": "k", "value": "v", "out": "out"}
_REDIMNET_RULES: Rules = [
    (r"^(stem|head)\.", r"backbone.\1."),
    (r"^stem_norm\.", "backbone.stem_gnorm."),
    (r"^pooling\.hidden\.", "pool.linear1."),
    (r"^pooling\.score\.", "pool.linear2."),
    (r"^pooling_norm\.", "bn."),
    (r"^embedding\.", "linear."),
    (r"\.(depthwise|pointwise|norm)([12])\.", lambda match: f".conv_block.{_OF_BLOCK[match[1]].format(match[2])}."),
    (r"\.context\.reduce\.", ".context.red_dim_conv.0."),
    (r"\.context\.norm\.", ".context.red_dim_conv.1."),
    (r"\.context\.expand\.", ".context.exp_dim_conv."),
    (r"\.contexts\.(\d)\.depthwise\.", r".tcm.\1.dwconvs.0."),
    (r"\.contexts\.(\d)\.norm\.", r".tcm.\1.norm."),
    (r"\.contexts\.(\d)\.pointwise\.", r".tcm.\1.pwconv1."),
    (r"\.attention\.(query|key|value|out)\.", lambda match: f".tcm.4.attention.{_OF_ATTENTION[match[1]]}_proj."),
    (r"\.attention\.conv_block\.bn1\.", ".tcm.4.layer_norm."),
    (r"\.attention\.conv_block\.bn2\.", ".tcm.4.final_layer_norm."),
    (r"\.attention\.widen\.", ".tcm.4.feed_forward.intermediate_dense."),
    (r"\.attention\.narrow\.", ".tcm.4.feed_forward.output_dense."),
]


def redimnet2(stages: Sequence[Mapping[str, int]], architecture: Architecture) -> Foreign:
    """What a checkpoint of ``ReDimNet2Wrap`` is here; its own description says how it is built.

    Theirs is one sequence a stage: the sum, a reshaping, the division, the blocks, the narrowing if there is one, a
    reshaping, the context, the repetition, the normalisation.
    """

    def block(name: str) -> Callable[[re.Match[str]], str]:
        return lambda match: f"{name}{3 + int(match[1])}."

    rules = list(_REDIMNET_RULES)
    for number, stage in enumerate(stages):
        squeeze = 3 + stage["blocks"]
        context = squeeze + 1 + (stage["expansion"] != 1)
        name = f"backbone.stage{number}."
        rules += [
            (rf"^sums\.{number}\.weights$", f"{name}0.w"),
            (rf"^stages\.{number}\.divide\.", f"{name}2."),
            (rf"^stages\.{number}\.blocks\.(\d+)\.", block(name)),
            (rf"^stages\.{number}\.squeeze\.", f"{name}{squeeze}."),
            (rf"^stages\.{number}\.context\.", f"{name}{context}."),
            (rf"^stages\.{number}\.norm\.", f"{name}{context + 2}."),
        ]
    rules.append((rf"^sums\.{len(stages)}\.weights$", "backbone.fin_wght1d.w"))
    return Foreign(architecture, rules, ignored=("spec.",))


TOOLKITS: dict[str, Callable[[Weights], Foreign]] = {
    "speechbrain": ecapa_tdnn,
    "wespeaker-ecapa": wespeaker_ecapa_tdnn,
    "wespeaker-resnet34": resnet,
    "3d-speaker-campplus": cam_plus_plus,
}


def import_model(toolkit: str, checkpoint: Path, folder: Path) -> Bundle:
    """Write a bundle that computes what the checkpoint's model does in its own toolkit, with its graph if possible.

    Args:
        toolkit: One of `TOOLKITS`.
        checkpoint: The state dict that the toolkit saved; untrusted.
        folder: Where the bundle goes; a bundle that exists is replaced, any other folder never is.

    Returns:
        The bundle, as loaded from there.

    Raises:
        ValueError: If there is no such toolkit.
        FileNotFoundError: If there is no such file.
        FileExistsError: If the folder holds anything but a bundle.
        ModelFileError: If it does not hold that toolkit's encoder.
    """
    if toolkit not in TOOLKITS:
        raise ValueError(f"toolkit must be one of {', '.join(TOOLKITS)}, got {toolkit!r}.")
    require_own_bundle(folder)
    weights = read_checkpoint(checkpoint).weights
    try:
        foreign = TOOLKITS[toolkit](weights)
        model = built(weights, foreign)
    except (ModelFileError, ConfigError) as error:
        raise ModelFileError(
            f"{error} It was {checkpoint}, read as {toolkit}; if the model is another, choose another of "
            f"{', '.join(TOOLKITS)}."
        ) from error
    training = {"imported_from": toolkit, "file": checkpoint.name, "sha256": file_digest(checkpoint)}
    save_bundle(folder, model, foreign.architecture, training=training, metrics={})
    bundle = load_bundle(folder)
    add_graph_if_possible(folder, bundle.model)
    return bundle


def built(weights: Weights, foreign: Foreign) -> SpeakerEncoder:
    """The model that a checkpoint is, with its weights.

    Raises:
        ModelFileError: If they do not fit.
        ConfigError: If the encoder cannot be built as the shapes say.
    """
    with parameters_limited(1_000 + 10 * len(weights)):
        model = foreign.architecture.build(empty=True)
    model.encoder.load_state_dict(our_weights(weights, foreign, model.encoder), assign=True)
    return model


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
