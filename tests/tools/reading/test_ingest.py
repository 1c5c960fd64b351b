"""Models come in from every kind of file, and no code that a file carries ever runs."""

import io
import os
import pathlib
import pickle  # noqa: TID251 - to write what must be refused
import random
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from spqformat import Reason, SpqError
from spqtools.pack import PackRequest, run_pack
from spqtools.progress import Progress
from spqtools.reading.ingest import ingest
from spqtools.search.goal import Options

if TYPE_CHECKING:
    from tests.conftest import TrainedNetwork

STATE = {"0.weight": torch.arange(12.0).reshape(3, 4), "0.bias": torch.tensor([1.0, -2.0, 0.0])}


class Touch:
    """Unpickles by creating a file."""

    def __init__(self, path: Path, how: str) -> None:
        self.path, self.how = path, how

    def __reduce__(self) -> tuple[Any, ...]:
        if self.how == "system":
            return os.system, (f"touch {self.path}",)
        if self.how == "eval":
            return eval, (f"open({str(self.path)!r}, 'w')",)
        return pathlib.Path.touch, (self.path,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that comes to be when a pickle is run."""
    return tmp_path / "canary"


def refused(path: Path, arch: str | None = None) -> SpqError:
    with pytest.raises(SpqError) as caught:
        ingest(path, arch)
    return caught.value


def assert_state(tensors: dict[str, Tensor]) -> None:
    assert tensors.keys() == STATE.keys()
    assert all(torch.equal(tensors[name], value) for name, value in STATE.items())


# What is read


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin", ".PT"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    source = ingest(path)
    assert_state(source.tensors)
    assert source.module is None


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": STATE},
        {"model_state_dict": STATE, "epoch": 3},
        {"model": OrderedDict(STATE), "optimizer": {"lr": 0.1}},
        {f"module.{name}": value for name, value in STATE.items()},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        {name: nn.Parameter(value) for name, value in STATE.items()},
    ],
    ids=["state_dict", "model_state_dict", "model", "prefix", "both", "parameters"],
)
def test_wrapped_state_dict(tmp_path: Path, wrapped: dict[str, Any]) -> None:
    torch.save(wrapped, tmp_path / "model.pt")
    source = ingest(tmp_path / "model.pt")
    assert_state(source.tensors)
    assert not any(tensor.requires_grad for tensor in source.tensors.values())


def test_prefix_of_some_names_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "model.pt")
    assert set(ingest(tmp_path / "model.pt").tensors) == {"module.a", "b"}


def test_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    assert_state(ingest(tmp_path / "model.safetensors").tensors)


def test_exported(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 3)).eval()
    network.load_state_dict(STATE)
    torch.export.save(torch.export.export(network, (torch.ones(2, 4),)), tmp_path / "model.pt2")
    source = ingest(tmp_path / "model.pt2")
    assert_state(source.tensors)
    assert source.exported is not None
    inputs = torch.ones(2, 4)
    assert torch.equal(source.exported.module()(inputs), network(inputs))


def test_arch_fills_the_network(trained_network: "TrainedNetwork") -> None:
    source = ingest(trained_network.model, trained_network.arch)
    assert source.module is not None
    assert not source.module.training
    for name, value in source.module.state_dict().items():
        assert torch.equal(value, source.tensors[name])


def test_arch_of_an_installed_module(tmp_path: Path) -> None:
    from spqtools.demo import build_network

    torch.save(build_network().state_dict(), tmp_path / "model.pt")
    source = ingest(tmp_path / "model.pt", "spqtools.demo:build_network")
    assert isinstance(source.module, nn.Sequential)


def test_arch_may_be_lazy_and_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "spq_neighbour.py").write_text("SIZE = 3\n")
    (tmp_path / "net.py").write_text(
        "import warnings\nfrom torch import nn\nfrom spq_neighbour import SIZE\n"
        "def build():\n"
        "    with warnings.catch_warnings():\n"
        "        warnings.simplefilter('ignore')\n"
        "        return nn.Sequential(nn.LazyLinear(SIZE))\n"
    )
    torch.save(STATE, tmp_path / "model.pt")
    before = list(sys.path)
    source = ingest(tmp_path / "model.pt", f"{tmp_path / 'net.py'}:build")
    assert sys.path == before
    assert source.module is not None
    assert_state(source.module.state_dict())


def test_digest_is_of_the_file(tmp_path: Path) -> None:
    import hashlib

    torch.save(STATE, tmp_path / "model.pt")
    digest = hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    assert ingest(tmp_path / "model.pt").digest == digest


# Hostile pickles


@pytest.mark.parametrize("how", ["system", "touch", "eval"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "place",
    [
        lambda gadget: gadget,
        lambda gadget: {**STATE, "evil": gadget},
        lambda gadget: {"state_dict": STATE, "meta": {"deep": [1, (2, gadget)]}},
        lambda gadget: OrderedDict([("module.a", torch.ones(1)), ("module.b", [gadget])]),
    ],
    ids=["top", "value", "nested", "list"],
)
def test_gadgets_do_not_run(
    tmp_path: Path, canary: Path, how: str, zipped: bool, place: Callable[[Any], Any]
) -> None:
    path = tmp_path / "model.pt"
    torch.save(place(Touch(canary, how)), path, _use_new_zipfile_serialization=zipped)
    assert refused(path).code == Reason.UNSAFE_MODEL
    assert not canary.exists()


def test_the_gadget_is_a_real_one(tmp_path: Path, canary: Path) -> None:
    torch.save({"evil": Touch(canary, "touch")}, tmp_path / "model.pt")
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_bare_pickles(tmp_path: Path, canary: Path, protocol: int) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Touch(canary, "system"), protocol=protocol))
    assert refused(path).code in {Reason.UNSAFE_MODEL, Reason.BAD_MODEL}
    assert not canary.exists()


def test_whole_module(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(4, 3)), tmp_path / "model.pt")
    error = refused(tmp_path / "model.pt")
    assert error.code == Reason.UNSAFE_MODEL
    assert "save model.state_dict()" in error.message


def as_zip(entries: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return stream.getvalue()


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "name", ["model/code/__torch__.py", "model/constants.pkl", "code/__torch__/a.py"]
)
def test_torchscript(tmp_path: Path, canary: Path, name: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(
        as_zip(
            [
                ("model/data.pkl", pickle.dumps(Touch(canary, "system"))),
                (name, b"pass"),
                ("model/version", b"3"),
            ]
        )
    )
    error = refused(path)
    assert error.code == Reason.UNSAFE_MODEL
    assert "TorchScript" in error.message
    assert not canary.exists()


def test_real_torchscript(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.pt")
    assert "TorchScript" in refused(tmp_path / "model.pt").message


def test_every_truncation_of_a_zip(tmp_path: Path) -> None:
    whole = saved(STATE)
    path = tmp_path / "model.pt"
    for length in range(1, len(whole), 97):
        path.write_bytes(whole[:length])
        assert refused(path).code in {Reason.BAD_MODEL, Reason.UNSAFE_MODEL}


def test_every_truncation_of_a_bare_pickle_with_a_gadget(tmp_path: Path, canary: Path) -> None:
    torch.save(
        {**STATE, "evil": Touch(canary, "touch")},
        tmp_path / "whole",
        _use_new_zipfile_serialization=False,
    )
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "model.pt"
    for length in range(1, len(whole), 41):
        path.write_bytes(whole[:length])
        assert refused(path).code in {Reason.BAD_MODEL, Reason.UNSAFE_MODEL}
    assert not canary.exists()


def test_overlapping_entries(tmp_path: Path, canary: Path) -> None:
    """The directory's second entry points at the first one's bytes, which hold a gadget."""
    evil = pickle.dumps(Touch(canary, "system"), protocol=2)
    whole = bytearray(as_zip([("model/data.pkl", evil), ("model/version", b"3")]))
    first = whole.index(b"PK\1\2")
    second = whole.index(b"PK\1\2", first + 4)
    whole[second + 42 : second + 46] = bytes(4)
    (tmp_path / "model.pt").write_bytes(whole)
    assert refused(tmp_path / "model.pt").code in {Reason.UNSAFE_MODEL, Reason.BAD_MODEL}
    assert not canary.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pt2", ".onnx"])
@pytest.mark.parametrize(
    "content",
    [
        b"PK\3\4",
        b"PK\5\6" + bytes(18),
        b"just some text\n",
        b"\x80\x02.",
        b"\x80\x05N.",
        bytes(4096),
        random.Random(3).randbytes(4096),
        struct.pack("<Q", 1 << 62) + b"{}",
        b'{"a": 1}',
    ],
    ids=["zip", "empty zip", "text", "no value", "none", "zeros", "noise", "length", "json"],
)
def test_what_is_no_model(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    assert refused(path).code in {Reason.BAD_MODEL, Reason.UNSAFE_MODEL}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pt2", ".onnx"])
def test_empty_and_missing_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    with pytest.raises(FileNotFoundError):
        ingest(path)
    path.touch()
    assert refused(path).code == Reason.BAD_MODEL


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("safetensors", ".pt"),
        ("safetensors", ".onnx"),
        ("safetensors", ".pt2"),
        ("state", ".safetensors"),
        ("state", ".onnx"),
        ("state", ".pt2"),
    ],
)
def test_wrong_suffix(tmp_path: Path, name: str, suffix: str) -> None:
    content = saved(STATE) if name == "state" else safetensors.torch.save(STATE)
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    assert refused(path).code in {Reason.BAD_MODEL, Reason.UNSAFE_MODEL}


def test_only_refusals_leave_on_damaged_zips(tmp_path: Path) -> None:
    """Names that are not UTF-8, foreign versions, flags: zipfile raises in many ways."""
    whole = saved(STATE)
    directory = whole.index(b"PK\1\2")
    noise = random.Random(5)
    path = tmp_path / "model.pt"
    refusals = 0
    for place in range(directory, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << noise.randrange(8)
        path.write_bytes(damaged)
        try:
            ingest(path)
        except SpqError:
            refusals += 1
    assert refusals > 50
    damaged = bytearray(whole)
    damaged[directory + 8] |= 0  # general flags
    damaged[directory + 9] |= 8  # names are UTF-8
    damaged[directory + 46] = 0xFF
    path.write_bytes(damaged)
    refused(path)


# What is no state dict


@pytest.mark.parametrize(
    "content",
    [
        {},
        [torch.ones(2)],
        torch.ones(2),
        {"a": 1},
        {"a": torch.ones(1), "b": "text"},
        {1: torch.ones(1)},
        {"state_dict": {}},
        None,
        3,
    ],
)
def test_other_contents(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pt")
    error = refused(tmp_path / "model.pt")
    assert error.code == Reason.BAD_MODEL
    assert "state dict" in error.message


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, device="meta"),
        torch.ones(2).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "complex", "meta", "float8"],
)
def test_tensors_that_no_file_can_hold(tmp_path: Path, tensor: Tensor) -> None:
    torch.save({"a": torch.ones(2), "odd": tensor}, tmp_path / "model.pt")
    error = refused(tmp_path / "model.pt")
    assert error.code == Reason.UNSUPPORTED_MODEL
    assert "'odd'" in error.message


def test_a_tensor_that_repeats_four_bytes_a_trillion_times(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(1 << 40)}, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 4096
    assert refused(tmp_path / "model.pt").code == Reason.UNSUPPORTED_MODEL


# --arch


@pytest.fixture
def arch(tmp_path: Path) -> Callable[[str], str]:
    """Write the function of an architecture and return its spec."""

    def write(body: str) -> str:
        path = tmp_path / "net.py"
        path.write_text(f"from torch import nn\n\ndef build():\n    {body}\n")
        return f"{path}:build"

    return write


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))", "lacks '1.weight', '1.bias'"),
        ("return nn.Sequential(nn.Linear(4, 3, bias=False))", "unexpected '0.bias'"),
        ("return nn.Linear(4, 3)", "lacks 'weight', 'bias'"),
        ("return nn.Sequential(nn.Linear(4, 3), *[nn.Linear(1, 1)] * 9)", "'2.weight' of"),
        ("return nn.Sequential(nn.Linear(5, 3))", "shape (3, 4) in the state dict and (3, 5)"),
        ("return nn.Sequential(nn.Bilinear(2, 2, 3))", "(3, 2, 2)"),
    ],
)
def test_state_dict_that_does_not_fit(
    tmp_path: Path, arch: Callable[[str], str], body: str, part: str
) -> None:
    torch.save(STATE, tmp_path / "model.pt")
    error = refused(tmp_path / "model.pt", arch(body))
    assert error.code == Reason.MODEL_MISMATCH
    assert part in error.message


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("raise KeyError('gone')", "KeyError: 'gone'"),
        ("return nn.Linear(4)", "TypeError"),
        ("return 3", "returns a int"),
        ("return nn.Linear", "returns a type"),
        ("return None", "returns a NoneType"),
        ("raise SystemExit('usage: train.py')", "SystemExit: usage: train.py"),
        ("return undefined", "NameError"),
        ("return (", "SyntaxError"),
    ],
)
def test_arch_that_fails(tmp_path: Path, arch: Callable[[str], str], body: str, part: str) -> None:
    torch.save(STATE, tmp_path / "model.pt")
    error = refused(tmp_path / "model.pt", arch(body))
    assert error.code == Reason.BAD_ARGUMENT
    assert part in error.message


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("build", "is not MODULE:CALLABLE"),
        (":build", "is not MODULE:CALLABLE"),
        ("net.py:", "is not MODULE:CALLABLE"),
        ("", "is not MODULE:CALLABLE"),
        ("no_such_module_of_spq:build", "ModuleNotFoundError"),
        ("spqtools.demo:no_such", "has no 'no_such'"),
        ("spqtools.demo:SEED", "TypeError"),
    ],
)
def test_arch_that_is_no_spec(tmp_path: Path, spec: str, part: str) -> None:
    torch.save(STATE, tmp_path / "model.pt")
    error = refused(tmp_path / "model.pt", spec)
    assert error.code == Reason.BAD_ARGUMENT
    assert part in error.message


def test_arch_in_a_missing_file(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError):
        ingest(tmp_path / "model.pt", f"{tmp_path / 'missing.py'}:build")


# ONNX


def onnx_model() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 8), dtype="f4"), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 8])],
        [weight],
    )
    return helper.make_model(graph)


def packed(path: Path) -> Path:
    """Pack from the weights alone."""
    output = path.with_suffix(".spq")
    run_pack(PackRequest(path, output, Options(sparsity=0.5)), Progress())
    return output


def test_onnx(tmp_path: Path) -> None:
    onnx.save(onnx_model(), tmp_path / "model.onnx")
    source = ingest(tmp_path / "model.onnx")
    assert source.tensors == {}
    assert source.onnx_model is not None
    assert source.onnx_model.graph.initializer[0].name == "weight"


def point_outside(tensor: TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "128")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def in_initializer(model: onnx.ModelProto, location: str) -> None:
    point_outside(model.graph.initializer[0], location)


def in_sparse_initializer(model: onnx.ModelProto, location: str) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.extend([32])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(2, dtype="f4"), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(2), "indices"))
    point_outside(sparse.indices, location)


def in_attribute(model: onnx.ModelProto, location: str) -> None:
    value = numpy_helper.from_array(np.ones(32, dtype="f4"), "constant")
    point_outside(value, location)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))


def in_subgraph(model: onnx.ModelProto, location: str) -> None:
    inner = onnx_model().graph
    point_outside(inner.initializer[0], location)
    del inner.input[:]
    model.graph.node.append(
        helper.make_node("If", ["b"], ["z"], then_branch=inner, else_branch=onnx_model().graph)
    )


def in_function(model: onnx.ModelProto, location: str) -> None:
    value = numpy_helper.from_array(np.ones(32, dtype="f4"), "constant")
    point_outside(value, location)
    node = helper.make_node("Constant", [], ["c"], value=value)
    model.functions.append(helper.make_function("own", "F", [], ["c"], [node], []))


def half_external(model: onnx.ModelProto, location: str) -> None:
    """Data inside, and a place outside that some readers prefer."""
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", location


@pytest.mark.parametrize(
    "hide",
    [
        in_initializer,
        in_sparse_initializer,
        in_attribute,
        in_subgraph,
        in_function,
        half_external,
    ],
)
@pytest.mark.parametrize("place", ["weights.bin", "absolute", "../outside/secret.bin", ""])
def test_external_data(
    tmp_path: Path, hide: Callable[[onnx.ModelProto, str], None], place: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (outside / "secret.bin", folder / "weights.bin"):
        path.write_bytes(np.ones(32, dtype="f4").tobytes())
    model = onnx_model()
    hide(model, str(outside / "secret.bin") if place == "absolute" else place)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    error = refused(folder / "model.onnx")
    assert error.code == Reason.UNSAFE_MODEL
    assert "refers to another file" in error.message


def test_every_truncation_of_an_onnx(tmp_path: Path) -> None:
    whole = onnx_model().SerializeToString()
    path = tmp_path / "model.onnx"
    reasons = set()
    for length in range(1, len(whole) - 1):
        path.write_bytes(whole[:length])
        try:
            packed(path)
        except SpqError as error:
            reasons.add(error.code)
    assert reasons == {Reason.BAD_MODEL}


@pytest.mark.parametrize("fault", ["dims", "type", "short", "huge", "negative"])
def test_onnx_with_a_damaged_tensor(tmp_path: Path, fault: str) -> None:
    model = onnx_model()
    tensor = model.graph.initializer[0]
    if fault == "dims":
        tensor.dims[0] = 68
    elif fault == "type":
        tensor.data_type = 65
    elif fault == "short":
        tensor.raw_data = tensor.raw_data[:-3]
    elif fault == "huge":
        tensor.dims[:] = [1 << 40, 1 << 20]
    else:
        tensor.dims[:] = [-4, -8]
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(SpqError) as caught:
        packed(path)
    assert caught.value.code == Reason.BAD_MODEL
    assert not path.with_suffix(".spq").exists()
