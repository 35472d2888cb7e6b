"""A device that is not the CPU, on a machine that has no other: it computes on the CPU, and refuses what a GPU would.

A tensor on it wraps one of the CPU. An operation on tensors of both devices is an error, as on a GPU, but for scalars.
Whatever would make the CPU wait for a GPU (a value read, a shape that depends on values, a copy back) is noted in
`SYNCHRONISING`, with the line of ours that asked for it.
"""

from __future__ import annotations

import io
import traceback
from collections import Counter
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
import torch.utils.backend_registration
from lightning_fabric import Fabric
from lightning_fabric.accelerators import Accelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from chns.cli import main
from chns.training import run
from chns.training.loop import Training

NAME = "sham"
SYNCHRONISING: Counter[str] = Counter()
_SOURCE = f"{Path('src') / 'chns'}/"
_aten = torch.ops.aten

# The result's shape depends on values, or a value goes to Python.
_WAITING = {
    _aten._local_scalar_dense.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.unique_dim.default,
    _aten.unique_consecutive.default,
    _aten.bincount.default,
    _aten.repeat_interleave.Tensor,
}
_WITH_MASK = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class ShamTensor(torch.Tensor):
    """A tensor on the device ``sham``; its values are in ``inner``, on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner):
        self.inner = inner.detach()

    def __repr__(self):
        return f"ShamTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})


def _computed(function, args, kwargs):
    flat = torch.utils._pytree.tree_leaves((args, kwargs))
    target = kwargs.get("device")
    if function in (_aten._to_copy.default, _aten.copy_.default):
        return _copied(function, args, kwargs)
    there = [value for value in flat if isinstance(value, ShamTensor)]
    for value in flat:
        if there and isinstance(value, torch.Tensor) and not isinstance(value, ShamTensor) and value.ndim:
            raise RuntimeError(f"{function}: expected all tensors on {NAME}, got one on {value.device}")
    if function in _WAITING or (function in _WITH_MASK and _has_mask(args)):
        _note(function)
    on_sham = bool(there) if target is None else torch.device(target).type == NAME
    kwargs = {
        key: torch.device("cpu") if key == "device" and value is not None else value for key, value in kwargs.items()
    }
    inner_args, inner_kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
    result = function(*inner_args, **inner_kwargs)
    known = {id(value.inner): value for value in there}  # what was changed in place stays the same tensor
    return tree_map(lambda value: _outer(value, known) if on_sham else value, result)


def _copied(function, args, kwargs):
    if function is _aten.copy_.default:
        destination, source = args[:2]
        if isinstance(source, ShamTensor) and not isinstance(destination, ShamTensor):
            _note(function)
        function(_inner(destination), _inner(source))
        return destination
    source, device = args[0], kwargs.get("device")
    to_sham = isinstance(source, ShamTensor) if device is None else torch.device(device).type == NAME
    if isinstance(source, ShamTensor) and not to_sham:
        _note(function)
    result = function(_inner(source), **{**kwargs, "device": torch.device("cpu")})
    return ShamTensor(result) if to_sham else result


def _inner(value):
    return value.inner if isinstance(value, ShamTensor) else value


def _outer(value, known):
    if not isinstance(value, torch.Tensor):
        return value
    return known.get(id(value)) if id(value) in known else ShamTensor(value)


def _has_mask(args):
    return any(isinstance(value, torch.Tensor) and value.dtype in (torch.bool, torch.uint8) for value in args[1])


def _note(function):
    lines = [frame for frame in traceback.extract_stack() if _SOURCE in frame.filename]
    where = f"{lines[-1].filename.split(_SOURCE)[1]}:{lines[-1].name}" if lines else "elsewhere"
    SYNCHRONISING[f"{where} {function}"] += 1


class _Factories(TorchDispatchMode):
    """Makes new tensors, which come from no tensor, on the sham device too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == NAME:
            return _computed(function, args, kwargs)
        return function(*args, **kwargs)


class _Module:
    """What `torch.sham` must offer."""

    def is_available(self):
        return True

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def _is_in_bad_fork(self):
        return False

    def manual_seed_all(self, seed):
        """The CPU computes, with its generator."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


class ShamAccelerator(Accelerator):
    """One sham device, for Fabric."""

    def setup_device(self, device):
        """Nothing to do."""

    def teardown(self):
        """Nothing to do."""

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):  # noqa: ARG004
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return NAME


@contextmanager
def sham_device():
    """The device, for as long as it is entered; registered once a process."""
    if not hasattr(torch, NAME):
        torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    with _Factories():
        yield torch.device(NAME, 0)


def waits_of_trainings(commands):
    """Run commands of `chns train` on the device; exit code, last line of errors, and what each step waited for.

    In a process that has not yet computed a gradient: torch counts devices when it first does.
    """
    train_step, results = Training._train_step, []
    run.Fabric = lambda **_: Fabric(
        strategy=SingleDeviceStrategy(torch.device(NAME, 0), accelerator=ShamAccelerator()), devices=1
    )
    run.add_graph_if_possible = lambda *_: None  # seconds
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the same objects on the device
    torch.inference_mode = torch.no_grad  # which tensors that wrap others cannot do

    def counted(self, *arguments):
        SYNCHRONISING.clear()
        train_step(self, *arguments)
        waited[self._step] = dict(SYNCHRONISING)

    Training._train_step = counted
    with sham_device():
        for command in commands:
            waited, said = {}, io.StringIO()
            with redirect_stderr(said):
                code = main(command)
            results.append({"code": code, "error": said.getvalue().strip().splitlines()[-1:], "waited": waited})
    return results
