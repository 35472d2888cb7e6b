"""Checkpoints come from strangers: nothing is run, and nothing large is made of a small file."""

import io
import os
import zipfile

import pytest
import torch

from chns.bundle import bounded
from chns.bundle.bounded import read_checkpoint
from chns.core import ModelFileError


def saved(path, content):
    torch.save(content, path)
    return path


class Harmful:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_what_is_saved_comes_back_in_float32(tmp_path):
    path = saved(tmp_path / "c.pt", {"a": torch.ones(2).half(), "b": torch.tensor(3)})
    weights = read_checkpoint(path).weights
    assert weights["a"].dtype == torch.float32
    assert weights["b"] == 3


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path = saved(tmp_path / "c.pt", {"a": torch.ones(2), "b": Harmful(tmp_path / "trace")})
    with pytest.raises(ModelFileError, match=r"checkpoint must be a state dict of tensors and nothing else"):
        read_checkpoint(path)
    assert not (tmp_path / "trace").exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "c.pt").write_bytes(b"\x80\x02}q\x00." * 100)
    with pytest.raises(ModelFileError, match=r"checkpoint must be in torch's zip format, got another in .*c\.pt"):
        read_checkpoint(tmp_path / "c.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint must be a file, got .*c\.pt"):
        read_checkpoint(tmp_path / "c.pt")


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("readme", "no weights")
    with pytest.raises(ModelFileError, match=r"must hold one description, data\.pkl"):
        read_checkpoint(tmp_path / "c.pt")


def test_a_compressed_archive_is_refused_before_it_unfolds(tmp_path):
    plain = io.BytesIO()
    torch.save({"a": torch.zeros(10_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(ModelFileError, match="checkpoint must not be compressed"):
        read_checkpoint(tmp_path / "c.pt")


def test_a_small_file_that_describes_a_huge_tensor_is_refused(tmp_path):
    path = saved(tmp_path / "c.pt", {"a": torch.zeros(1).expand(10**6, 10**6)})
    assert path.stat().st_size < 10_000
    with pytest.raises(
        ModelFileError, match="checkpoint must hold at most 1073741824 bytes of weights, got 4000000000000"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path, cut):
    path = saved(tmp_path / "c.pt", {"a": torch.ones(1000), "b": torch.ones(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(ModelFileError, match="checkpoint must be"):
        read_checkpoint(path)


def test_mutated_checkpoints_give_an_error_of_ours_or_tensors(tmp_path):
    path = saved(tmp_path / "c.pt", {f"layer.{n}.weight": torch.ones(20) for n in range(5)})
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for place in torch.randint(len(content), (8,), generator=generator).tolist():
            damaged[place] = int(torch.randint(256, (1,), generator=generator))
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except ModelFileError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "checkpoint must be a state dict of tensors, got list"),
        ({}, "checkpoint must be a state dict of tensors, got dict"),
        ({"net": {"a": torch.ones(1)}}, "must hold plain tensors by name, got 'net' of dict"),
        ({"a": bytearray(5)}, "must hold tensors, got a bytearray in .*Do not trust it"),
        ({"state_dict": {}}, "must be a state dict of tensors, got an empty one"),
        ({"state_dict": {"a": 1}}, "must hold plain tensors by name, got 'a' of int"),
        ({3: torch.ones(1)}, "must hold plain tensors by name, got '3' of"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "must hold plain tensors by name, got 'a' of torch.complex64"),
        ({"a": torch.eye(2).to_sparse()}, "must hold plain tensors by name, got 'a' of torch.float32"),
        ({"a": torch.ones(1, device="meta")}, "must hold plain tensors by name, got 'a' of torch.float32 on meta"),
        ({"a": torch.tensor([1.0, torch.nan])}, "weights must be finite, got others in 'a'"),
    ],
)
def test_what_is_not_a_state_dict_is_refused(tmp_path, content, message):
    with pytest.raises(ModelFileError, match=message):
        read_checkpoint(saved(tmp_path / "c.pt", content))


def test_too_many_tensors_and_too_large_files_are_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "c.pt", {"a": torch.ones(100), "b": torch.ones(100)})
    monkeypatch.setattr(bounded, "LARGEST_NUMBER_OF_TENSORS", 1)
    with pytest.raises(ModelFileError, match="checkpoint must hold at most 1 tensors, got more"):
        read_checkpoint(path)
    monkeypatch.setattr(bounded, "LARGEST_BYTES", 100)
    with pytest.raises(ModelFileError, match="checkpoint must be at most 100 bytes, got"):
        read_checkpoint(path)
