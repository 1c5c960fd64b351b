"""The kernel of a level's products with the inputs' moments: its twin, and whole matrices."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spqtools.levels.level_image import level_image

ROWS, COLUMNS, LEVELS = 4, 9, 3


def image(seed: int, level: int, function: Any) -> tuple[int, NDArray[np.float32], Any]:
    """Run a kernel on a random layer; returns what it returns, the image, and the layer."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(20, COLUMNS + 1)).astype(np.float32)
    chosen = random.integers(-1, LEVELS, (ROWS, COLUMNS)).astype(np.int16)
    found = np.full((ROWS, COLUMNS + 1), np.nan, dtype=np.float32)
    hessian = inputs.T @ inputs
    return function(hessian, chosen, level, found), found, (hessian, chosen)


@pytest.mark.parametrize("level", range(LEVELS))
def test_agrees_with_its_twin(level: int) -> None:
    count, found, _ = image(level, level, level_image)
    same = image(level, level, level_image.py_func)  # type: ignore[attr-defined]
    assert count == same[0]
    np.testing.assert_array_equal(found, same[1])


@pytest.mark.parametrize("level", range(LEVELS))
def test_is_the_product_of_whole_matrices(level: int) -> None:
    count, found, (hessian, chosen) = image(7, level, level_image)
    assert count == (chosen == level).sum()
    np.testing.assert_allclose(
        found, (chosen == level).astype(np.float32) @ hessian[:COLUMNS], rtol=1e-5, atol=1e-5
    )
