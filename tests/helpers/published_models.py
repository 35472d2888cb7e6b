"""The files of other toolkits' models as they are published, with random weights."""

import io
import json
import sys
import types
from collections import OrderedDict

import torch
from foreign_models import (
    REDIMNET_STAGES,
    cam_plus_plus_state,
    redimnet_state,
    speechbrain_state,
    wespeaker_ecapa_state,
    wespeaker_resnet_state,
)

SPEECHBRAIN_YAML = """
# Feature parameters
n_mels: 80
out_n_neurons: 7205
pretrained_path: speechbrain/spkrec-ecapa-voxceleb

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [32, 32, 32, 32, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 12
    res2net_scale: 4
    lin_neurons: 16
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 16
    out_neurons: !ref <out_n_neurons>
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""

WESPEAKER_YAML = """
dataset_args:
  aug_prob: 0.6
  fbank_args:
    dither: 1.0
    frame_length: 25
    frame_shift: 10
    num_mel_bins: 80
  num_frms: 600
  resample_rate: 16000
  spec_aug: false
  speed_perturb: false
exp_dir: exp/ResNet34-TSTP-emb256-LM
loss: CrossEntropyLoss
model: ResNet34
model_args:
  embed_dim: 16
  feat_dim: 80
  pooling_func: TSTP
  two_emb_layer: false
projection_args:
  embed_dim: 16
  scale: 32.0
"""
PYANNOTE_YAML = """
model:
  _target_: pyannote.audio.models.embedding.WeSpeakerResNet34
  sample_rate: 16000
  num_channels: 1
  num_mel_bins: 80
  frame_length: 25
  frame_shift: 10
  dither: 0.0
  window_type: hamming
  use_energy: false
"""


def saved(content):
    """What torch.save writes, as bytes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def speechbrain_files(yaml=SPEECHBRAIN_YAML, **settings):
    """Of a repository with an ECAPA-TDNN."""
    return {
        "embedding_model.ckpt": saved(dict(speechbrain_state(**settings))),
        "hyperparams.yaml": yaml.encode(),
        "classifier.ckpt": b"not asked for",
        "config.json": b'{"speechbrain_interface": "speechbrain.inference.speaker.EncoderClassifier"}',
        "label_encoder.txt": b"not asked for",
        "README.md": b"# A model",
    }


def wespeaker_files(yaml=WESPEAKER_YAML, **settings):
    """Of a repository with a ResNet34, which also holds a graph."""
    return {
        "avg_model.pt": saved(dict(wespeaker_resnet_state(**{"channels": 4, "blocks": (1, 1, 1, 1), **settings}))),
        "config.yaml": yaml.encode(),
        "voxceleb_resnet34_LM.onnx": b"not asked for",
    }


def wespeaker_ecapa_files(**settings):
    """The same with an ECAPA-TDNN, under the older name without a suffix."""
    yaml = WESPEAKER_YAML.replace("model: ResNet34", "model: ECAPA_TDNN_GLOB_c512").replace("TSTP", "ASTP")
    return {"avg_model": saved(dict(wespeaker_ecapa_state(**settings))), "config.yaml": yaml.encode()}


class Specifications:
    """What pyannote pickles beside its weights."""

    def __init__(self):
        self.duration = 10.0


Specifications.__module__ = "pyannote.audio.core.task"
Specifications.__qualname__ = "Specifications"


def pyannote_files(yaml=PYANNOTE_YAML, **settings):
    """Of a repository with pyannote's wrapper of a ResNet34: a dictionary of Lightning's."""
    parts = ["pyannote", "pyannote.audio", "pyannote.audio.core", "pyannote.audio.core.task"]
    sys.modules.update({name: types.ModuleType(name) for name in parts})  # for pickle to write; whoever reads lacks it
    sys.modules[parts[-1]].Specifications = Specifications
    try:
        state = wespeaker_resnet_state(**{"channels": 4, "blocks": (1, 1, 1, 1), **settings})
        del state["projection.weight"]
        content = {
            "state_dict": OrderedDict((f"resnet.{name}", tensor) for name, tensor in state.items()),
            "pytorch-lightning_version": "2.0.8",
            "hyper_parameters": {"sample_rate": 16000, "num_mel_bins": 80},
            "pyannote.audio": {"specifications": Specifications()},
        }
        return {"pytorch_model.bin": saved(content), "config.yaml": yaml.encode()}
    finally:
        for name in parts:
            del sys.modules[name]


def three_d_speaker_files(**settings):
    """Of a repository with a CAM++."""
    described = {"model": {"model_config": {"sample_rate": 16000, "fbank_dim": 80, "emb_size": 16}}}
    return {
        "campplus_cn_common.bin": saved(dict(cam_plus_plus_state(**settings))),
        "configuration.json": json.dumps(described).encode(),
    }


REDIMNET_CONFIG = {
    "C": 4,
    "F": 40,
    "agg_gnorm": True,
    "block_1d_type": "conv+att",
    "block_2d_type": "basic_resnet",
    "causal": "none",
    "embed_dim": 16,
    "feat_type": "tf",
    "out_channels": 6,
    "pooling_func": "ASTP",
    "return_2d_output": True,
    "spec_params": {"do_preemph": True, "do_spec_aug": False, "norm_signal": True},
    "stages_setup": REDIMNET_STAGES,
}


def redimnet_files(config=None, **settings):
    """A file that describes itself."""
    changed = {**REDIMNET_CONFIG, "embed_dim": settings.get("dim", 16), **(config or {})}
    content = {"model_config": changed, "state_dict": dict(redimnet_state(**settings))}
    return {"b0-vox2-lm.pt": saved(content)}
