"""Ways in which files are damaged, by accident or on purpose; every one is drawn from the generator passed in."""

import hashlib
import json
import os
import pickle
import shutil
import struct
import zipfile

import numpy as np
import torch
from safetensors.torch import load, save

FIELD_VALUES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
HOSTILE_VALUES = (
    None, True, -1, 0, 1, 2, 3, 1_000, 10**6, 10**9, 10**30, -0.5, 1e-9, 1e308, float("nan"), float("inf"), "", "x",
    "x" * 10_000, "\ud800", "\0", "../../x", [], {}, [[]], [0], [-1], [10**9], [3] * 50_000, {"": None}, "reflect",
    "os.system", "chns.cli.main", "chns.encoders.ThinResNet", "chns.encoders.ResNet",
    "chns.encoders.ecapa_tdnn_mobile", "chns.features.DecibelMel", "chns.features.mels.math",
)  # fmt: skip


ENCODER_SETTINGS = (
    "kernels", "dilations", "res2net_scale", "se_bottleneck", "attention_channels", "embedding_dim", "padding",
    "global_context", "plain_head", "num_mels", "blocks", "channels", "pooling",
)  # fmt: skip
FEATURE_SETTINGS = (
    "num_mels", "sample_rate_hz", "frame_seconds", "hop_seconds", "low_hz", "high_hz", "window",
    "subtract_mean", "range_db",
)  # fmt: skip
LIKELY_VALUES = (
    0.001, 0.0001, 0.02, 0.5, 4.0, 40, 79, 81, 8_000, 44_100, 400_000, 10**5, [5, 3, 3, 3], [5, 3, 3, 10**9 + 1],
    [1, 2, 3, 10**4], [1, 2, 3, 10**6], [1, 2, 3, 10**9], [1, 2, 3, 2**63], [1, 2, 3, 0], [1, 2, 3, -1], [1, 2, 3, 1.5],
    [1, 2, 3, None], [10**9] * 4, [1] * 50_000, "zeros", "hamming",
)  # fmt: skip


def damaged_bytes(rng, content, *, header_bytes=512):
    """The content after one of six kinds of damage."""
    content = bytearray(content)
    damage = [_flip_bits, _truncate, _edit_field, _duplicate, _delete, _overwrite][rng.integers(6)]
    for _ in range(1 if damage is _truncate else rng.integers(1, 4)):
        damage(rng, content, min(header_bytes, len(content)) if rng.random() < 0.5 else len(content))
    return bytes(content)


def _flip_bits(rng, content, end):
    for _ in range(rng.integers(1, 33)):
        content[rng.integers(end)] ^= 1 << rng.integers(8)


def _truncate(rng, content, end):
    del content[rng.integers(end) :]


def _edit_field(rng, content, end):
    """A length, a count or a rate becomes something absurd."""
    at, form = rng.integers(max(1, end - 8)), ["<I", ">I", "<H", ">H", "<Q", ">Q"][rng.integers(6)]
    value = FIELD_VALUES[rng.integers(len(FIELD_VALUES))]
    packed = struct.pack(form, value % 2 ** (8 * struct.calcsize(form)))
    content[at : at + len(packed)] = packed


def _span(rng, end):
    start = int(rng.integers(end))
    return start, start + int(rng.integers(1, 1_000))


def _duplicate(rng, content, end):
    start, stop = _span(rng, end)
    content[start:start] = content[start:stop]


def _delete(rng, content, end):
    start, stop = _span(rng, end)
    if start:
        del content[start:stop]


def _overwrite(rng, content, end):
    start, stop = _span(rng, end)
    stop = min(stop, len(content))
    content[start:stop] = rng.bytes(stop - start) if rng.random() < 0.5 else bytes(stop - start)


def damage_bundle(rng, folder):
    """Damage a bundle in its place, in one of many ways; says which."""
    ways = (
        _damage_weights, _swap_values, _swap_values, _add_settings, _add_settings, _change_tensors, _edit_header,
        _change_text, _replace_file,
    )  # fmt: skip
    way = ways[rng.integers(len(ways))]
    return f"{way.__name__}: {way(rng, folder)}"


def _damage_weights(rng, folder):
    path = folder / "model.safetensors"
    path.write_bytes(damaged_bytes(rng, path.read_bytes(), header_bytes=16 if rng.random() < 0.5 else 4_000))


def _swap_values(rng, folder):
    """Values of the description become others, of another type or out of range."""
    path = folder / "config.json"
    description = json.loads(path.read_text())
    done = []
    for _ in range(rng.integers(1, 4)):
        places = list(_places(description))
        container, key = places[rng.integers(len(places))]
        container[key] = HOSTILE_VALUES[rng.integers(len(HOSTILE_VALUES))]
        done.append(f"{key} = {str(container[key])[:40]!r}")
    path.write_text(json.dumps(description))
    return ", ".join(done)


def _add_settings(rng, folder):
    """The encoder or the features get one or two of their settings, with values out of range or merely unusual."""
    path = folder / "config.json"
    description = json.loads(path.read_text())
    part, names = [("encoder_settings", ENCODER_SETTINGS), ("feature_settings", FEATURE_SETTINGS)][rng.integers(2)]
    values = LIKELY_VALUES if rng.random() < 0.7 else HOSTILE_VALUES
    added = {names[rng.integers(len(names))]: values[rng.integers(len(values))] for _ in range(rng.integers(1, 3))}
    description[part].update(added)
    if part == "feature_settings" and rng.random() < 0.3:
        description["features"] = "chns.features.DecibelMel"
    path.write_text(json.dumps(description))
    return str(added)[:100]


def _places(value):
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield value, key
        if isinstance(inner, (dict, list)) and len(inner) < 100:
            yield from _places(inner)


def _digest(tensors):
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _change_tensors(rng, folder):
    """Other weights with the right digest: somebody made them on purpose."""
    path, described = folder / "model.safetensors", folder / "config.json"
    tensors = load(path.read_bytes())
    name = sorted(tensors)[rng.integers(len(tensors))]
    changes = {
        "NaN": lambda tensor: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor - 1,
        "infinity": lambda tensor: torch.full_like(tensor, float("inf")) if tensor.is_floating_point() else tensor,
        "huge": lambda tensor: tensor * 1e30 if tensor.is_floating_point() else tensor * 0,
        "float64": torch.Tensor.double,
        "float16": torch.Tensor.half,
        "bfloat16": torch.Tensor.bfloat16,
        "int8": torch.Tensor.char,
        "transposed": lambda tensor: tensor.flatten().clone(),
        "empty": lambda tensor: tensor.flatten()[:0].clone(),
    }
    change = sorted(changes)[rng.integers(len(changes))]
    for changed in tensors if rng.random() < 0.3 else [name]:
        tensors[changed] = changes[change](tensors[changed])
    path.write_bytes(save(tensors))
    described.write_text(json.dumps({**json.loads(described.read_text()), "weights_sha256": _digest(tensors)}))
    return f"{change} of {name}"


def _edit_header(rng, folder):
    """The header of the weights promises other shapes, places or types, and is of the right length."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    name = sorted(header)[rng.integers(len(header))]
    edits = [
        {"shape": [2**40]}, {"shape": [2**31, 2**33]}, {"shape": [-1]}, {"shape": [0]}, {"shape": []},
        {"data_offsets": [0, 2**60]}, {"data_offsets": [2**60, 0]}, {"data_offsets": [0, 0]}, {"data_offsets": [4, 12]},
        {"dtype": "F64"}, {"dtype": "BOOL"}, {"dtype": "U64"}, {"dtype": "F8_E5M2"}, {"dtype": "\0"}, {"shape": None},
    ]  # fmt: skip
    edit = edits[rng.integers(len(edits))]
    header[name] = {**header[name], **edit}
    packed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + content[8 + length :])
    return f"{edit} of {name}"


def _change_text(rng, folder):
    """The description is no JSON, or JSON that is hard to read or to print."""
    path = folder / "config.json"
    text = path.read_text()
    deep = int(rng.integers(100, 3_000))
    texts = [
        "[" * 100_000, '{"a":' * 50_000, text + text, text[: len(text) // 2], "\ufeff" + text, text * 1_000,
        text.replace('"training": {', '"training": {"deep": ' + "[" * deep + "]" * deep + ", "),
        text.replace('"encoder_settings": {', '"encoder_settings": {"deep": ' + "[" * deep + "]" * deep + ", "),
        text.replace('"metrics": {', '"metrics": {"deep": ' + '{"a":' * deep + "1" + "}" * deep + ", "),
        text.replace('"encoder": ', '"encoder": ' + "[" * deep + "]" * deep + ', "other": '),
        text.replace("16", "1" * 5_000), text.replace("16", "1" * 4_000), text.replace("16", "1e400"),
    ]  # fmt: skip
    number = int(rng.integers(len(texts) + 1))
    path.write_bytes(text.encode("utf-16") if number == len(texts) else texts[number].encode())
    return number


def _replace_file(rng, folder):
    """Something else has the name of one of the files."""
    path = folder / ("config.json" if rng.random() < 0.5 else "model.safetensors")
    content = path.read_bytes()
    path.unlink()
    ways = ("nothing", "folder", "fifo", "device", "endless", "loop", "outside", "zip", "pickle", "torch", "empty")
    way = ways[rng.integers(len(ways))]
    if way == "folder":
        path.mkdir()
    elif way == "fifo":
        os.mkfifo(path)
    elif way in ("device", "endless", "loop", "outside"):
        path.symlink_to({"device": "/dev/stdin", "endless": "/dev/zero", "loop": path, "outside": "/etc/passwd"}[way])
    elif way == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../" + path.name, content)
            archive.writestr("zeros", bytes(2**24))
    elif way == "pickle":
        path.write_bytes(pickle.dumps({"weights": np.zeros(3)}))
    elif way == "torch":
        torch.save({"weights": torch.zeros(3)}, path)
    elif way == "empty":
        path.touch()
    return f"{way} as {path.name}"


def fresh_copy(source, folder):
    """A copy of the bundle in the place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    return folder
