"""A network is exported once in a run of the tests, whichever test and process asks first: it takes seconds.

Only torch's exporter is spared. What a file is given, checked against and refused for happens anew in each test.
"""

import hashlib
from pathlib import Path

from filelock import FileLock

TENSORS = {"_parameters", "_buffers", "_modules"}


def exported_once(exported, folder: Path):
    """``chns.bundle.bundle_graph._exported``, which keeps what it made in a folder."""

    def once(module, example, input_name, axes):
        import onnx_ir
        from torch.onnx import ONNXProgram

        path = folder / f"{_digest(module, (example.shape[1:], input_name, axes))}.onnx"
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                exported(module, example, input_name, axes).save(path)
        return ONNXProgram(onnx_ir.load(path), None)

    return once


def _digest(module, more) -> str:
    """Of all that a module computes with: its layers' types, attributes and tensors."""
    whole = hashlib.sha256(repr(more).encode())
    for name, layer in module.named_modules():
        attributes = sorted((key, _told(value)) for key, value in vars(layer).items() if key not in TENSORS)
        whole.update(repr((name, type(layer), attributes)).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        whole.update(repr((name, tensor.dtype, tensor.shape)).encode())
        whole.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()


def _told(value) -> str:
    """The order of a set is another one in each process."""
    return repr(sorted(value) if isinstance(value, set) else value)
