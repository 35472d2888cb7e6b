"""3D-Speaker's CAM++, the files ``campplus_*`` of its releases."""

from __future__ import annotations

import re

from chns.checkpoint import Architecture
from chns.importing.mapping import Foreign, Rules, Weights, size

_NUM_BLOCKS = 3

_RULES: Rules = [
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
    return Foreign(architecture, _RULES)


def _num_layers(weights: Weights, block: int) -> int:
    pattern = re.compile(rf"xvector\.block{block}\.tdnnd(\d+)\.linear1\.weight")
    return len([name for name in weights if pattern.fullmatch(name)])
