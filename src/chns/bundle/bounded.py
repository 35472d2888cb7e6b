"""Take from a stranger's file what a model is made of, without letting it decide how much work that is, or what runs.

A file that ``torch.save`` wrote is a pickle. Only torch's zip format is read, mapped into memory and by torch's
restricted unpickler. Lightning and others put objects of their own beside the weights; their classes are replaced by
stand-ins that take anything and do nothing, so neither is their package needed nor their code run. Sizes are checked
before a tensor is touched: a few bytes can describe a tensor of terabytes, and a compressed archive can unfold to them.

A description of a network can be as short: ``"blocks": [1000000000]`` takes a line in a file, and on torch's meta
device no memory for weights, but hours and gigabytes for the modules around them. How many parameters there can be is
known before: as many as the file of weights has tensors.
"""

from __future__ import annotations

import pickletools
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises; nothing is unpickled
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.serialization import safe_globals

from chns.core import ConfigError, ModelFileError, quoted

LARGEST_BYTES = 2**30
LARGEST_NUMBER_OF_TENSORS = 10_000

_LARGEST_PICKLE_BYTES = 2**24
_STATE_DICT = "state_dict"
_ERRORS = (RuntimeError, UnpicklingError, ValueError, TypeError, LookupError, AttributeError, EOFError, OSError)
_TAKES_ANY_SIZE = "builtins.bytearray"  # the one name that torch lets a file call with a number of bytes


_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 4_000, 48_000
_MOST_OVERLAP = 16


class Checkpoint(NamedTuple):
    """What a file of tensors holds.

    Attributes:
        weights: By name, on the CPU; floating-point ones as float32.
        beside: What else a file holds that keeps its weights under ``state_dict``; untrusted.
    """

    weights: dict[str, Tensor]
    beside: Mapping[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a checkpoint.

    Args:
        path: A state dict that `torch.save` wrote, or a dictionary with one under ``state_dict``, as of Lightning.

    Raises:
        FileNotFoundError: If there is no such file.
        ModelFileError: If it is something else, larger than `LARGEST_BYTES`, or holds values that are not finite.
    """
    content = _content(path)
    if not isinstance(content, dict) or not content:
        raise ModelFileError(f"checkpoint must be a state dict of tensors, got {type(content).__name__} in {path}.")
    inner = content.get(_STATE_DICT)
    if isinstance(inner, dict):
        beside = {str(name)[:200]: value for name, value in content.items() if name != _STATE_DICT}
        return Checkpoint(_checked(inner, path), beside)
    return Checkpoint(_checked(content, path), {})


def _content(path: Path) -> Any:
    stand_ins: list[Any] = [(_stand_in(name), name) for name in _names_of_classes(path)]
    try:
        with safe_globals(stand_ins):  # those that torch knows stay as they are
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _ERRORS as error:
        raise ModelFileError(
            f"checkpoint must be a state dict of tensors and nothing else, got {path} ({_first_line(error)}). Load it "
            f"with its own toolkit and save the encoder with `torch.save(encoder.state_dict(), PATH)`."
        ) from error


def _stand_in(name: str) -> type:
    """A class of its own for each name and file, since a pickle may put attributes on a class."""

    def take_anything(_self: object, *_values: object, **_named: object) -> None:
        pass

    return type(name.rpartition(".")[2], (), {"__init__": take_anything, "__setstate__": take_anything})


def _names_of_classes(path: Path) -> list[str]:
    """What the file's pickle would import."""
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a file, got {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, path)
            pickles = [member for member in members if member.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or pickles[0].file_size > _LARGEST_PICKLE_BYTES:
                raise ModelFileError(
                    f"checkpoint must hold one description, data.pkl, of at most {_LARGEST_PICKLE_BYTES:,} bytes, got "
                    f"{len(pickles)} or a larger one in {path}."
                )
            operations = pickletools.genops(archive.read(pickles[0]))
            names = {_as_now(str(argument)) for operation, argument, _ in operations if operation.name == "GLOBAL"}
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"checkpoint must be in torch's zip format, got another in {path} ({_first_line(error)}). If torch before "
            f"1.6 wrote it, load it and save it again."
        ) from error
    if _TAKES_ANY_SIZE in names:
        raise ModelFileError(f"checkpoint must hold tensors, got a bytearray in {path}. Do not trust it.")
    return sorted(names)


def _as_now(name: str) -> str:
    """``module name`` of a pickle as an import path, as torch sees it: pickles name builtins as Python 2 did."""
    module, _, attribute = name.partition(" ")
    return f"{'builtins' if module == '__builtin__' else module}.{attribute}"


def _check_members(members: list[zipfile.ZipInfo], path: Path) -> None:
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ModelFileError(f"checkpoint must not be compressed, as torch never does, got {path}. Do not trust it.")
    num_bytes = path.stat().st_size
    if num_bytes > LARGEST_BYTES:
        raise ModelFileError(f"checkpoint must be at most {LARGEST_BYTES} bytes, got {num_bytes} in {path}.")


def _checked(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    if not content:
        raise ModelFileError(f"checkpoint must be a state dict of tensors, got an empty one in {path}.")
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
            raise ModelFileError(f"weights must be finite, got others in {quoted(name)} in {path}.")
    return weights


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


@contextmanager
def parameters_limited(limit: int) -> Iterator[None]:
    """Stop the building of modules in the block when they have registered more parameters than that.

    Args:
        limit: The largest number of parameters, whatever their sizes.

    Raises:
        ConfigError: If there are more.
    """
    builder = threading.get_ident()
    count = 0

    def count_one(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() != builder:
            return
        count += 1
        if count > limit:
            raise ConfigError(f"encoder must have at most {limit} parameters, as its weights allow, got more.")

    handle = register_module_parameter_registration_hook(count_one)
    try:
        yield
    finally:
        handle.remove()


def require_sensible_frames(features: Any) -> None:
    """Bound the memory that a second of speech takes, and leave none unheard: no weights depend on rate and hop.

    Args:
        features: A module such as `chns.features.LogMel`.

    Raises:
        ConfigError: If the rate is none of speech, frames follow one another too closely, or there are gaps between.
    """
    if not _LOWEST_RATE_HZ <= features.sample_rate_hz <= _HIGHEST_RATE_HZ:
        raise ConfigError(
            f"sample_rate_hz must be between {_LOWEST_RATE_HZ} and {_HIGHEST_RATE_HZ}, got {features.sample_rate_hz}."
        )
    shortest = max(features.sample_rate_hz / 1_000, features.frame_samples / _MOST_OVERLAP)
    if not shortest <= features.hop_samples <= features.frame_samples:
        raise ConfigError(
            f"hop_seconds must be at least 0.001 and a {_MOST_OVERLAP}th of frame_seconds, and at most frame_seconds, "
            f"got {quoted(features.hop_samples)} samples at {features.sample_rate_hz} Hz."
        )
