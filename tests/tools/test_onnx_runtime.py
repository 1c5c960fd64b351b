"""What does not fit a network is refused before ONNX Runtime sees it."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from spqtools.onnx_runtime import MisfitError, open_session, run


def session(shape: list[Any] | None) -> Any:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["y"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return open_session(onnx.ModelProto.SerializeToString(model))


@pytest.mark.parametrize(
    ("taken", "given", "sentence"),
    [
        (
            [1, 3, 32, 64],
            (1, 3, 40, 40),
            "takes 1x3x32x64 as 'image' and was given 1x3x40x40; for images write "
            "--preprocess size=64x32,fit=letterbox, or another fit",
        ),
        ([1, 3, 32, 64], (1, 32, 64, 3), "write --preprocess size=64x32,fit=letterbox, or"),
        (["N", 32, 64, 3], (2, 3, 32, 64), "size=64x32,fit=letterbox,layout=nhwc, or"),
        (["N", 3, None, 64], (2, 3, 32, 32), "takes Nx3xNx64 .* write .* size=WIDTHxHEIGHT,"),
        ([8, 3, 32, 32], (1, 3, 32, 32), "takes 8x3x32x32 .* for batches of any size"),
        (["N", 1, 28, 28], (2, 3, 28, 28), "give it samples of that shape"),
        (["N", 6], (2, 6, 1), "given 2x6x1; give it samples of that shape"),
    ],
)
def test_what_does_not_fit(taken: list[Any], given: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(MisfitError, match=sentence):
        run(session(taken), {"image": np.zeros(given, "f4")})


@pytest.mark.parametrize("taken", [None, ["N", 3, None, None], [2, 3, 4, 5]])
def test_what_fits(taken: list[Any] | None) -> None:
    image = np.ones((2, 3, 4, 5), "f4")
    assert np.array_equal(run(session(taken), {"image": image})[0], image)
