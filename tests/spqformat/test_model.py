"""Records add up, and the numbers of the format do not move."""

import numpy as np
import pytest

from spqformat.ids import DType, Encoding
from spqformat.model import Part, TensorRecord


def test_sizes_of_a_record() -> None:
    parts = (Part(64, 10, 0), Part(74, 7, 0))
    record = TensorRecord("w", DType.BF16, Encoding.DENSE, (3, 1, 5), 0, parts)
    assert (record.element_count, record.decoded_bytes, record.stored_bytes) == (15, 30, 17)


@pytest.mark.parametrize(
    ("shape", "count"), [((), 1), ((0, 1 << 48), 0), ((1 << 32, 1 << 32), 1 << 64)]
)
def test_element_counts_do_not_wrap(shape: tuple[int, ...], count: int) -> None:
    assert TensorRecord("w", DType.U8, Encoding.RAW, shape, 0, ()).element_count == count


def test_records_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Part(0, 0, 0).offset = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("number", "label", "width"),
    [
        *((0, "f64", 8), (1, "f32", 4), (2, "f16", 2), (3, "bf16", 2), (4, "i8", 1)),
        *((5, "i16", 2), (6, "i32", 4), (7, "i64", 8), (8, "u8", 1), (9, "u16", 2)),
        *((10, "u32", 4), (11, "u64", 8), (12, "bool", 1)),
    ],
)
def test_element_types(number: int, label: str, width: int) -> None:
    dtype = DType(number)
    assert (dtype.label, dtype.item_bytes) == (label, width)
    assert dtype.numpy.newbyteorder("<") == dtype.numpy
    if label not in ("bf16", "bool"):
        long = {"f": "float", "i": "int", "u": "uint"}[label[0]] + label[1:]
        assert dtype.numpy == np.dtype(long)
