"""WeSpeaker's ECAPA-TDNN and ResNet, the files ``avg_model.pt`` of its recipes."""

from __future__ import annotations

import torch

from chns.checkpoint import Architecture
from chns.importing.mapping import Foreign, Rules, Weights, count, size

_NUM_BLOCKS = 3
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


def ecapa_tdnn(weights: Weights) -> Foreign:
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
    """What a checkpoint of WeSpeaker's ``ResNet34`` is here; the number of blocks of each stage may be another.

    Raises:
        ModelFileError: If a tensor that tells a width is missing.
    """
    channels = [size(weights, f"layer{stage + 1}.0.conv1.weight", 0) for stage in range(_NUM_STAGES)]
    bands = size(weights, "seg_1.weight", 1) // (2 * channels[-1])
    architecture = Architecture(
        feature_settings={"num_mels": bands * 2 ** (_NUM_STAGES - 1), "window": "hamming"},
        encoder="chns.encoders.ResNet",
        encoder_settings={
            "channels": channels,
            "blocks": [count(weights, f"layer{stage + 1}.{{}}.conv1.weight") for stage in range(_NUM_STAGES)],
            "embedding_dim": size(weights, "seg_1.weight", 0),
        },
    )
    return Foreign(architecture, _RESNET_RULES, ignored=_HEAD)
