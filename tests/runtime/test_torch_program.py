"""Programs rebuild networks, and hostile ones are refused with `bad_program` and nothing else."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

import spq
from spq import torch_program
from spq.torch_program_writer import encode
from spqformat import Reason, SpqError
from spqtools.reading.tracing import capture

# --- round trips ---------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.outer = nn.Linear(6, 6)
        self.outer.weight = self.inner.weight
        self.register_buffer("scale", torch.tensor([0.5]))
        self.register_buffer("shift", torch.tensor([0.25]), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        changed: Tensor = self.outer(relu(self.inner(inputs)))
        return inputs + self.scale * changed + self.shift


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        both = torch.cat([self.left(left), self.right(right)], dim=1)
        first, second = torch.split(both, [2, 4], dim=1)
        return {"both": both, "parts": (first, [second.mean(dim=1)])}


class Flattening(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(inputs.shape[0], inputs.shape[1] * inputs.shape[2]).softmax(-1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 2)), ((5,),)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
        ),
        ((2, 8, 8),),
    ),
    "residual": (Residual, ((6,),)),
    "two inputs": (TwoInputs, ((4,), (5,))),
    "no weights": (Flattening, ((3, 4),)),
}


def flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for value in values for tensor in flat(value)]


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(name: str) -> None:
    build, shapes = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = build().eval()
        inputs = tuple(torch.randn(3, *shape) for shape in shapes)
    program, tensors = encode(capture(network, inputs))
    stream = io.BytesIO()
    spq.save({**tensors, **network.state_dict()}, stream, programs={"torch": program})
    loaded = spq.load(stream.getvalue())
    assert not loaded.training
    state, original = loaded.state_dict(), network.state_dict()
    assert sorted(state) == sorted(original)
    assert all(torch.equal(tensor, original[key]) for key, tensor in state.items())
    assert {key for key, _ in loaded.named_parameters()} == {
        key for key, _ in network.named_parameters()
    }
    for batch in (inputs, tuple(torch.randn(7, *shape) for shape in shapes)):
        with torch.inference_mode():
            outputs, expected = loaded(*batch), network(*batch)
        assert type(outputs) is type(expected)
        for output, wanted in zip(flat(outputs), flat(expected), strict=True):
            torch.testing.assert_close(output, wanted)


def test_structure_of_outputs() -> None:
    network = TwoInputs()
    program, tensors = encode(capture(network, (torch.zeros(2, 4), torch.zeros(2, 5))))
    outputs = torch_program.decode(program, tensors)(torch.zeros(2, 4), torch.zeros(2, 5))
    assert list(outputs) == ["both", "parts"]
    assert type(outputs["parts"]) is tuple
    assert type(outputs["parts"][1]) is list


def test_ties_and_buffers() -> None:
    network = Residual()
    program, tensors = encode(capture(network, (torch.zeros(2, 6),)))
    stream = io.BytesIO()
    spq.save({**network.state_dict(), **tensors}, stream, programs={"torch": program})
    loaded = spq.load(stream.getvalue(), dtype=torch.float64)
    assert loaded.get_parameter("inner.weight") is loaded.get_parameter("outer.weight")
    assert "shift" not in loaded.state_dict()
    assert loaded.get_buffer("shift").item() == 0.25
    assert loaded(torch.zeros(1, 6, dtype=torch.float64)).dtype == torch.float64


def test_loaded_network_can_be_trained() -> None:
    network = nn.Linear(3, 1)
    program, tensors = encode(capture(network, (torch.zeros(2, 3),)))
    loaded = torch_program.decode(program, tensors)
    torch.autograd.backward(loaded(torch.ones(1, 3)))
    gradient = loaded.get_parameter("weight").grad
    assert gradient is not None
    assert gradient.tolist() == [[1, 1, 1]]


def test_same_network_same_bytes() -> None:
    def program() -> bytes:
        network = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2))
        return encode(capture(network, (torch.zeros(2, 5),)))[0]

    assert program() == program()


def test_wrong_number_of_inputs() -> None:
    with pytest.raises(TypeError, match="takes 1 inputs, not 2"):
        decode(document(inputs=1, output={"$": 0}))(torch.zeros(1), torch.zeros(1))


class Branching(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if bool(inputs.sum() > 0) else -inputs


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.count: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        self.count += 1
        return inputs + self.count


@pytest.mark.parametrize("build", [Branching, Counting])
def test_networks_that_cannot_be_stored(build: type[nn.Module]) -> None:
    with pytest.raises(SpqError) as caught:
        encode(capture(build(), (torch.zeros(2, 3),)))
    assert caught.value.code is Reason.UNSUPPORTED_MODEL


# --- hostile documents ---------------------------------------------------------------------


def document(**changes: Any) -> dict[str, Any]:
    """A sound document: one input, one buffer, their sum."""
    return {
        "format": 1,
        "inputs": 1,
        "parameters": [],
        "buffers": ["w"],
        "constants": [],
        "nodes": [["aten.add.Tensor", [{"$": 0}, {"$": 1}]]],
        "output": {"$": 2},
        **changes,
    }


def decode(content: Any, names: tuple[str, ...] = ("w",)) -> nn.Module:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return torch_program.decode(data, {name: torch.ones(2) for name in names})


def test_names_that_occur_twice() -> None:
    for changes in ({"buffers": ["w", "w"]}, {"parameters": ["w"]}, {"constants": ["w"]}):
        changed = document(**changes, nodes=[], output={"$": 0})
        assert "names a tensor twice" in refused(changed)


def refused(content: Any, names: tuple[str, ...] = ("w",)) -> str:
    with pytest.raises(SpqError) as caught:
        decode(content, names)
    assert caught.value.code is Reason.BAD_PROGRAM
    assert caught.value.section == "program"
    return caught.value.message


def node(operation: Any, *arguments: Any) -> dict[str, Any]:
    return document(nodes=[[operation, list(arguments)]])


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = wrap(value)
    return value


def test_the_sound_document_runs() -> None:
    assert decode(document())(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xff\xfe", b"{", b"nonsense", b"\x80\x04\x95", b'{"format": 1', b"1" * 5000),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'"' + b"\xed\xa0\x80" + b'"'),
    ],
)
def test_what_is_no_json(data: bytes) -> None:
    assert "program" in refused(data)


@pytest.mark.parametrize("content", [None, 1, "text", [], {}, {"format": 2}, {"format": "1"}])
def test_other_documents(content: Any) -> None:
    assert "unknown format" in refused(content)


@pytest.mark.parametrize("section", sorted(document().keys() - {"format"}))
def test_each_section_is_needed(section: str) -> None:
    content = document()
    del content[section]
    assert section in refused(content)


@pytest.mark.parametrize("section", sorted(document().keys() - {"output"}))
@pytest.mark.parametrize(
    "value", [None, -1, 1.5, False, "text", {}, [None], [[]], {"$": 0}, 1 << 70]
)
def test_wrong_types(section: str, value: Any) -> None:
    refused(document(**{section: value}))


@pytest.mark.parametrize(
    "operation",
    [
        *("aten.nonsense.default", "aten.add", "aten.add.nonsense", "add.Tensor", "aten..Tensor"),
        # Operations that change their arguments, read or write files, print, or change the process
        *("aten.add_.Tensor", "aten.relu_.default", "aten.add.out", "aten.resize_.default"),
        *("aten.from_file.default", "aten.from_file.out", "aten.save.default"),
        *("aten._print.default", "aten.warn.default", "aten.manual_seed.default"),
        *("aten.set_grad_enabled.default", "aten.get_num_threads.default"),
        # Other namespaces and attributes of Python
        *("prim.Print.default", "prims.add.default", "torch.load", "os.system", "builtins.eval"),
        *("aten.__class__.mro", "aten.__class__.__class__", "aten.name.upper", "aten.__dict__.get"),
        *("aten.add.__class__", "aten.add.__call__", "aten.add._schema", "aten.add.op"),
        *("getattr", "eval", "import", "pow", "call", "__getitem__", "", "aten.add.Tensor\n"),
        *("ATEN.add.Tensor", "aten.ａdd.Tensor", " aten.add.Tensor", "aten.add.Tensor.x"),
    ],
)
def test_refused_operations(operation: str) -> None:
    assert "not allowed" in refused(node(operation, {"$": 0}))


def test_negative_numbers_count_back() -> None:
    nodes = [
        ["aten.add.Tensor", [{"$": -2}, {"$": -1}]],
        ["aten.mul.Tensor", [{"$": -1}, {"$": -3}]],
        ["aten.sub.Tensor", [{"$": -1}, 0.5]],
    ]
    inputs = torch.tensor([1.0, 2.0])
    for output, expected in ((-1, inputs * (inputs + 1) - 0.5), (-2, inputs * (inputs + 1))):
        network = decode(document(nodes=nodes, output={"$": output}))
        assert torch.equal(network(inputs), expected)
    assert torch.equal(decode(document(nodes=nodes, output={"$": -5}))(inputs), inputs)
    refused(document(nodes=nodes, output={"$": -6}))


@pytest.mark.parametrize("operation", [None, 1, [], {}, ["aten.add.Tensor"]])
def test_operations_that_are_no_names(operation: Any) -> None:
    assert "malformed node" in refused(node(operation))


@pytest.mark.parametrize(
    "step",
    [
        *(None, 1, "aten.add.Tensor", {}, [], ["aten.add.Tensor"], ["aten.add.Tensor", [], {}, 1]),
        *(["aten.add.Tensor", 1], ["aten.add.Tensor", {"tuple": []}], ["aten.add.Tensor", None]),
        *(["aten.add.Tensor", [], []], ["aten.add.Tensor", [], None]),
        *(["aten.add.Tensor", [], {"a": {"$": 9}}], ["aten.add.Tensor", [], 5]),
    ],
)
def test_malformed_steps(step: Any) -> None:
    refused(document(nodes=[step]))


@pytest.mark.parametrize(
    "argument",
    [
        *(
            {"$": 2},
            {"$": -3},
            {"$": -4},
            {"$": -1 << 70},
            {"$": 1 << 70},
            {"$": True},
            {"$": "0"},
            {"$": 0.0},
            {"$": None},
        ),
        *({}, {"$": 0, "tuple": []}, {"unknown": 1}, {"tuple": 1}, {"tuple": {}}, {"dict": []}),
        *({"float": "1"}, {"float": 1.0}, {"float": "Infinity"}, {"device": "cuda"}),
        *({"dtype": "nonsense"}, {"dtype": "float32.x"}, {"dtype": "load"}, {"dtype": 1}),
        *({"dtype": "strided"}, {"layout": "float32"}, {"dtype": "__class__"}, {"dtype": "ops"}),
        *({"dtype": "has_cuda"}, {"dtype": "has_mps"}, {"memory_format": "has_mkldnn"}),
        *({"__class__": "os.system"}, {"__reduce__": []}),
    ],
)
def test_refused_arguments(argument: Any) -> None:
    # The step is the third value: it must not refer to itself or to what comes later.
    refused(node("aten.add.Tensor", argument))
    refused(node("aten.add.Tensor", [{"tuple": [argument]}]))
    if argument not in ({"$": 2}, {"$": -3}):
        refused(document(output=argument))


@pytest.mark.parametrize(
    "wrap",
    [lambda value: [value], lambda value: {"tuple": [value]}, lambda value: {"dict": {"a": value}}],
)
def test_deep_nesting(wrap: Callable[[Any], Any]) -> None:
    decode(document(output=nested(16, wrap)))
    for depth in (17, 60, 300):
        assert "too deeply" in refused(document(output=nested(depth, wrap)))
        assert "too deeply" in refused(node("aten.add.Tensor", nested(depth, wrap)))


def test_names_of_missing_tensors() -> None:
    assert "'x'" in refused(document(buffers=["x"]))


@pytest.mark.parametrize(
    "name",
    [
        *("__class__", "__dict__", "a.__class__", "__init__", "forward", "training", "eval"),
        *("_modules", "_modules.x", "_parameters", "_buffers.x", "_forward_hooks"),
        *("_steps", "_steps.x", "_dead", "_result", "_input_count", "_tensor_names"),
        *("T_destination", "dump_patches", "call_super_init", "state_dict.x"),
    ],
)
@pytest.mark.parametrize("group", ["parameters", "buffers", "constants"])
def test_names_that_modules_keep_for_themselves(name: str, group: str) -> None:
    content = document(**{"buffers": [], group: [name]})
    assert "cannot hold" in refused(content, (name,))


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a\n", "ä", "a-b", "../a", "/a"]
)
def test_names_of_another_form(name: str) -> None:
    assert "without valid names" in refused(document(buffers=[name]), (name,))


def test_names_within_each_other() -> None:
    for names in (["a", "a.b"], ["a.b", "a"], ["a.b", "a.b.c"]):
        assert "cannot hold" in refused(
            document(buffers=names, nodes=[], output=None), tuple(names)
        )


def test_long_paths_of_names() -> None:
    name = ".".join("a" * 500)
    assert list(decode(document(buffers=[name]), (name,)).state_dict()) == [name]


def test_too_many_inputs() -> None:
    assert "number of inputs" in refused(document(inputs=1025))


def test_integers_of_tensors_are_no_gradients() -> None:
    data = json.dumps(document(parameters=["i"], buffers=[], output={"$": 1}, nodes=[])).encode()
    loaded = torch_program.decode(data, {"i": torch.arange(3)})
    assert not loaded.get_parameter("i").requires_grad


def test_constants_import_nothing() -> None:
    script = (
        "import json, sys\n"
        "from spq import torch_program\n"
        f"content = {document(output={'dtype': '_inductor'})!r}\n"
        "before = set(sys.modules)\n"
        "try:\n"
        "    torch_program.decode(json.dumps(content).encode(), {'w': None})\n"
        "except Exception as error:\n"
        "    print(error.code, sorted(set(sys.modules) - before))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert child.stdout.strip() == "bad_program []", child.stderr


def test_nothing_of_a_file_is_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for operation in ("aten.save.default", "aten.from_file.default", "os.system", "eval"):
        refused(node(operation, {"$": 0}, str(canary)))
    assert not canary.exists()
