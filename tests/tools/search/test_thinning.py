"""What is written thin comes back bit for bit."""

import pytest
import torch
from torch import Tensor

from spqtools.search.thinning import thick, thick_mask, thin, thin_mask


def some(shape: tuple[int, ...], density: float) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(shape, generator=generator) < density
    return torch.where(mask, torch.randn(shape, generator=generator), 0.0)


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (7,), (5, 3, 2)])
def test_masks(shape: tuple[int, ...]) -> None:
    mask = some(shape, 0.4) != 0
    assert torch.equal(thick_mask(thin_mask(mask), shape), mask)


def test_tensors() -> None:
    sparse = some((40, 9), 0.1)
    sparse[3, 4] = -0.0
    tensors = {
        "sparse": sparse,
        "columns": some((9, 40), 0.1).T,
        "dense": some((40, 9), 0.9),
        "empty": torch.zeros(0, 3),
        "zeros": torch.zeros(5),
        "scalar": torch.tensor(2.5),
        "half": torch.zeros(8, dtype=torch.bfloat16),
        "steps": torch.zeros(8, dtype=torch.int64),
    }
    told = thin(tensors)
    assert told["values/sparse"].numel() == int((sparse != 0).sum()) + 1
    assert {name for name in told if name.startswith("whole/")} == {
        f"whole/{name}" for name in ("dense", "empty", "scalar", "half", "steps")
    }
    found = thick(told, tensors)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert torch.equal(found["sparse"].view(torch.int32), sparse.view(torch.int32))
