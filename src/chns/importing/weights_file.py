"""Read the tensors of another toolkit's checkpoint, which comes from a stranger.

Only torch's zip format is read, mapped into memory and by torch's restricted unpickler, so nothing of the file is run.
Sizes are checked before a tensor is touched: a few bytes can describe a tensor of terabytes, and a compressed archive
can unfold to them.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises; nothing is unpickled

import torch
from torch import Tensor

from chns.errors import ModelFileError

LARGEST_BYTES = 2**30
LARGEST_NUMBER_OF_TENSORS = 10_000


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU; floating-point ones as float32.

    Args:
        path: A state dict that `torch.save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ModelFileError: If it is something else, larger than `LARGEST_BYTES`, or holds values that are not finite.
    """
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, UnpicklingError, ValueError, EOFError, KeyError, OSError) as error:
        raise ModelFileError(
            f"checkpoint must be a state dict of tensors and nothing else, got {path} ({_first_line(error)}). Load it "
            f"with its own toolkit and save the encoder with `torch.save(encoder.state_dict(), PATH)`."
        ) from error
    if not isinstance(content, dict) or not content:
        raise ModelFileError(f"checkpoint must be a state dict of tensors, got {type(content).__name__} in {path}.")
    if len(content) > LARGEST_NUMBER_OF_TENSORS:
        raise ModelFileError(f"checkpoint must hold at most {LARGEST_NUMBER_OF_TENSORS} tensors, got more in {path}.")
    for name, tensor in content.items():
        _check_kind(name, tensor, path)
    num_bytes = sum(4 * tensor.numel() for tensor in content.values())
    if num_bytes > LARGEST_BYTES:
        raise ModelFileError(
            f"checkpoint must hold at most {LARGEST_BYTES} bytes of weights, got {num_bytes} in {path}."
        )
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in content.items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ModelFileError(f"weights must be finite, got others in {name!r} in {path}.")
    return weights


def _check_archive(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a file, got {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelFileError(
            f"checkpoint must be in torch's zip format, got another in {path} ({error}). If torch before 1.6 wrote it, "
            f"load it and save it again."
        ) from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ModelFileError(f"checkpoint must not be compressed, as torch never does, got {path}. Do not trust it.")
    num_bytes = path.stat().st_size
    if num_bytes > LARGEST_BYTES:
        raise ModelFileError(f"checkpoint must be at most {LARGEST_BYTES} bytes, got {num_bytes} in {path}.")


def _check_kind(name: object, tensor: object, path: Path) -> None:
    usable = (
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and (tensor.is_floating_point() or tensor.dtype == torch.int64)
    )
    if not usable:
        kind = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ModelFileError(
            f"checkpoint must hold plain tensors by name, got {str(name)[:80]!r} of {kind} in {path}. If the "
            f"state dict is inside, save it alone with `torch.save`."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
