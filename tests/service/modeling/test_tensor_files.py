from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from tuft.modeling.tensor_files import read_safetensors, write_safetensors

TENSORS = {
    "b": torch.arange(12.0).view(3, 4).T,
    "a": torch.tensor([[True], [False]]),
    "half": torch.randn(5).bfloat16(),
    "none": torch.empty(0, 3),
    "one": torch.tensor(7),
}


def test_the_librarys_files_are_read_and_ours_by_the_library() -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    theirs = save(contiguous, metadata={"format": "pt"})
    ours = write_safetensors(TENSORS, {"format": "pt"})
    for found in (load(ours), read_safetensors(ours)[0], read_safetensors(theirs)[0]):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
        assert all(found[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert read_safetensors(ours)[1] == read_safetensors(theirs)[1] == {"format": "pt"}


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_what_is_cut_off_is_refused(keep: int) -> None:
    data = write_safetensors(TENSORS, {})
    with pytest.raises(SafetensorError, match="not a whole safetensors file"):
        read_safetensors(data[:keep])


def test_writable_memory_is_not_copied() -> None:
    data = bytearray(write_safetensors(TENSORS, {}))
    tensors, _ = read_safetensors(memoryview(data))
    data[-1] ^= 1
    before, now = write_safetensors(TENSORS, {}), write_safetensors(tensors, {})
    assert before != now
