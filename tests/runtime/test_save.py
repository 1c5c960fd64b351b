"""What `spq.save` takes, what it refuses, and that it changes nothing on the way."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import spq
from spqformat import Reason, SpqError


def whole_file(tensors: Mapping[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    assert spq.save(tensors, stream, **options) == len(stream.getvalue())
    return stream.getvalue()


def saved(tensor: Any) -> tuple[NDArray[Any], str]:
    """Save and load one tensor; return it and its type."""
    with spq.open(whole_file({"w": tensor})) as archive:
        archive.verify()
        return archive.get_tensor("w"), archive.info("w").dtype


TORCH_TYPES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
    torch.uint16: "u16",
    torch.uint32: "u32",
    torch.uint64: "u64",
    torch.bool: "bool",
}


@pytest.mark.parametrize("dtype", list(TORCH_TYPES))
@pytest.mark.parametrize("shape", [(), (5,), (20, 30), (0, 4)])
def test_torch_types(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.arange(0, 600)[: max(1, int(np.prod(shape)))] % 50).to(dtype)
    tensor = tensor[: int(np.prod(shape))].reshape(shape)
    array, label = saved(tensor)
    assert label == TORCH_TYPES[dtype]
    assert array.shape == shape
    plain = tensor.view(torch.uint16) if dtype is torch.bfloat16 else tensor
    assert array.tobytes() == plain.numpy().tobytes()


@pytest.mark.parametrize("shape", [(), (7,), (3, 5)])
def test_numpy_bfloat16(shape: tuple[int, ...]) -> None:
    tensor = np.full(shape, 1.5, dtype=ml_dtypes.bfloat16)
    array, label = saved(tensor)
    assert (label, array.shape, array.dtype.str) == ("bf16", shape, "<u2")
    assert (array == 0x3FC0).all()


def test_strided_tensors() -> None:
    base = np.arange(240, dtype="f4").reshape(12, 20)
    for view in (
        base.T,
        base[::2, ::-3],
        np.broadcast_to(base[0], (9, 20)),
        np.asfortranarray(base),
    ):
        assert saved(view)[0].tobytes() == np.ascontiguousarray(view).tobytes()
    tensor = torch.from_numpy(base)
    for other in (tensor.T, tensor[::2, ::3], tensor[0].expand(9, 20), tensor.unfold(1, 4, 2)):
        assert saved(other)[0].tobytes() == other.contiguous().numpy().tobytes()


def test_other_byte_order() -> None:
    values = np.array([1.5, -2.0, 3e-40], dtype=">f4")
    array, label = saved(values)
    assert label == "f32"
    assert array.tobytes() == values.astype("<f4").tobytes()
    patterns = np.array([0x7F800001, 0xFFC12345, 1], dtype=">u4")
    assert saved(patterns.view(">f4"))[0].view("<u4").tolist() == patterns.tolist()


def test_parameters_and_gradients() -> None:
    layer = torch.nn.Linear(3, 4)
    with spq.open(whole_file(dict(layer.named_parameters()))) as archive:
        assert archive.get_tensor("weight").tobytes() == layer.weight.detach().numpy().tobytes()
    array, _ = saved(layer.weight * 2)
    assert np.array_equal(array, (layer.weight * 2).detach().numpy())


def test_booleans_of_other_bytes_keep_their_truth() -> None:
    for count in (5, 3000):
        strange = (np.arange(count) % 3).astype("u1").view(bool)
        array, _ = saved(strange)
        assert array.view("u1").tolist() == [int(number % 3 > 0) for number in range(count)]


# --- ties ----------------------------------------------------------------------------------


def ties(tensors: Mapping[str, Any]) -> dict[str, str]:
    with spq.open(whole_file(tensors)) as archive:
        archive.verify()
        for name in tensors:
            expected = tensors[name]
            if isinstance(expected, torch.Tensor):
                expected = expected.resolve_neg().contiguous().numpy()
            assert archive.get_tensor(name).tobytes() == expected.tobytes(), name
        return dict(archive.aliases)


def test_shared_memory_is_tied() -> None:
    array = np.arange(500, dtype="f4")
    assert ties({"b": array, "a": array, "c": array[:]}) == {"b": "a", "c": "a"}
    tensor = torch.arange(500.0)
    assert ties({"b": tensor, "a": tensor.detach(), "c": tensor.view(500)}) == {"b": "a", "c": "a"}


def test_equal_contents_are_not_tied() -> None:
    array = np.arange(500, dtype="f4")
    assert ties({"a": array, "b": array.copy()}) == {}
    assert ties({"a": torch.zeros(5), "b": torch.zeros(5)}) == {}


def test_other_views_of_the_same_memory_are_not_tied() -> None:
    array = np.arange(400, dtype="f4").reshape(20, 20)
    others = {"t": array.T, "half": array[:10], "flat": array.reshape(-1), "bits": array.view("i4")}
    assert ties({"a": array, **others}) == {}
    tensor = torch.arange(400.0).reshape(20, 20)
    more = {"t": tensor.T, "half": tensor[:10], "flat": tensor.view(-1)}
    assert ties({"a": tensor, "bits": tensor.view(torch.int32), **more}) == {}


def test_lazily_negated_views_are_not_tied() -> None:
    imaginary = torch.complex(torch.zeros(50), torch.arange(50.0))
    assert ties({"a": imaginary.imag, "b": imaginary.conj().imag}) == {}


def test_empty_tensors_are_not_tied() -> None:
    assert ties({name: np.zeros((0, 3)) for name in "abc"}) == {}


class MadeOnRequest(Mapping[str, NDArray[Any]]):
    """A mapping that makes each array anew, as files of arrays do."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.arange(1000, dtype="f4") * np.float32(1.0001) + np.float32(int(name))

    def __iter__(self) -> Iterator[str]:
        return (str(number) for number in range(self._count))

    def __len__(self) -> int:
        return self._count


def test_tensors_made_on_request_are_not_tied() -> None:
    assert ties(MadeOnRequest(9)) == {}


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        [1.0, 2.0],
        1.0,
        None,
        np.float32(1),
        np.array([1 + 2j]),
        np.array(["a"]),
        np.array([object()]),
        np.zeros(3, dtype=[("a", "f4")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.zeros(3, dtype=torch.float8_e4m3fn),
    ],
)
def test_refused_types(tensor: Any, tmp_path: Path) -> None:
    with pytest.raises(SpqError, match="'some name'") as caught:
        spq.save({"some name": tensor}, tmp_path / "new.spq")
    assert caught.value.code is Reason.BAD_ARGUMENT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a\0", "\ud800", "n" * 1025])
def test_refused_names_leave_the_old_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.spq"
    path.write_bytes(b"old")
    refused: list[dict[str, Any]] = [
        {"tensors": {name: np.zeros(3)}},
        {"tensors": {}, "metadata": {name: "v"}},
        {"tensors": {}, "metadata": {"k": "a\0b"}},
        {"tensors": {}, "programs": {name: b""}},
        {"tensors": {"w": np.zeros((0, 1 << 50), dtype="u1")}},
        {"tensors": {"w": np.zeros((1 << 30, 0, 1 << 20), dtype="u1")}},
        {"tensors": {"w": torch.empty((0, 1 << 31, 1 << 31))}},
    ]
    for options in refused:
        with pytest.raises(SpqError) as caught:
            spq.save(path=path, **options)
        assert caught.value.code is Reason.BAD_ARGUMENT
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("name", [None, 7, b"w", ("w",)])
def test_what_is_no_text_is_refused(name: Any, tmp_path: Path) -> None:
    refused: list[dict[str, Any]] = [
        {"tensors": {name: np.zeros(3)}},
        {"tensors": {"w": np.zeros(3), name: np.zeros(3)}},
        {"tensors": {}, "metadata": {name: "v"}},
        {"tensors": {}, "metadata": {"k": name}},
        {"tensors": {}, "programs": {"x": b"", name: b""}},
        {"tensors": {}, "programs": {"x": "text"}},
    ]
    for options in refused:
        with pytest.raises(SpqError) as caught:
            spq.save(path=tmp_path / "model.spq", **options)
        assert caught.value.code is Reason.BAD_ARGUMENT
    assert list(tmp_path.iterdir()) == []


# --- files ---------------------------------------------------------------------------------


def test_path(tmp_path: Path) -> None:
    path = tmp_path / "model.spq"
    tensors = {"w": np.arange(99, dtype="i2")}
    assert spq.save(tensors, path) == spq.save(tensors, str(path)) == path.stat().st_size
    assert path.read_bytes() == whole_file(tensors)


class ShortWrites(io.RawIOBase):
    """A file that takes at most seven bytes at a time."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.content += bytes(data[:7])
        return min(7, len(data))


def test_file_that_takes_little_at_a_time() -> None:
    stream = ShortWrites()
    tensors = {"w": np.arange(99, dtype="i2")}
    assert spq.save(tensors, stream) == len(stream.content)  # type: ignore[arg-type]
    assert stream.content == whole_file(tensors)


def test_file_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = ShortWrites()
    monkeypatch.setattr(stream, "write", lambda data: None)
    with pytest.raises(OSError, match="no more bytes"):
        spq.save({}, stream)  # type: ignore[arg-type]


def test_same_content_same_bytes() -> None:
    tensors = {name: np.arange(99, dtype="f4") * len(name) for name in ("a", "bb", "ccc")}
    options: dict[str, dict[str, Any]] = {
        "metadata": {"x": "1", "y": "2"},
        "programs": {"p": b"1", "q": b"2"},
    }
    turned = {key: dict(reversed(value.items())) for key, value in options.items()}
    first = whole_file(tensors, **options)
    assert whole_file(dict(reversed(tensors.items())), **turned) == first


def test_what_takes_no_bytes(tmp_path: Path) -> None:
    closed = io.BytesIO()
    closed.close()
    targets: list[Any] = [closed, io.StringIO(), None, 7, "a\0b"]
    for target in targets:
        with pytest.raises(SpqError) as caught:
            spq.save({"w": np.zeros(3)}, target)
        assert caught.value.code is Reason.BAD_ARGUMENT
    (tmp_path / "old").write_bytes(b"")
    with (tmp_path / "old").open("rb") as unwritable, pytest.raises(OSError, match="write"):
        spq.save({"w": np.zeros(3)}, unwritable)
