"""SpeechBrain's ECAPA-TDNN, the file ``embedding_model.ckpt`` of its speaker recognisers."""

from __future__ import annotations

from chns.checkpoint import Architecture
from chns.importing.mapping import Foreign, Rules, Weights, count, size

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
