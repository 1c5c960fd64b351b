"""A .pt2 can hold code in a dozen places; none of it runs, and plain networks come in."""

import copy
import io
import json
import os
import pickle  # noqa: TID251 - to write what must be refused
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from spqformat import Reason, SpqError
from spqtools.reading.pt2 import read_pt2

MODEL = "net/models/model.json"
WEIGHTS = "net/data/weights/model_weights_config.json"
CONSTANTS = "net/data/constants/model_constants_config.json"
SAMPLES = "net/data/sample_inputs/model.pt"

Entries = dict[str, bytes]
Edit = Callable[[Any, Entries, Path], None]


class Small(nn.Module):
    """x -> relu(x W + b), with a free batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.dense(x))


def export(network: nn.Module, inputs: tuple[Tensor, ...], shapes: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer is talkative about recurrent networks
        program = torch.export.export(network.eval(), inputs, dynamic_shapes=shapes)
    torch.export.save(program, path)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    """The entries of a harmless archive."""
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    export(Small(), (torch.ones(4, 4),), ({0: Dim.AUTO},), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def as_zip(entries: Entries, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def read(content: bytes, folder: Path) -> torch.export.ExportedProgram:
    """Read an archive and run it once, as packing does."""
    path = folder / "net.pt2"
    path.write_bytes(content)
    program = read_pt2(path)
    program.module()(torch.ones(2, 4))
    return program


def refused(content: bytes, folder: Path) -> SpqError:
    with pytest.raises(SpqError) as caught:
        read(content, folder)
    return caught.value


class Scale(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        return {"flat": torch.cat([x, y]).reshape(-1, 2), "pair": [x.sum(), (y,)]}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.cell = nn.LSTM(4, 5, batch_first=True)

    def forward(self, tokens: Tensor) -> Any:
        return self.cell(self.embed(tokens))


class Shapes(nn.Module):
    """Its shape expressions have floor divisions and products."""

    def forward(self, x: Tensor) -> Tensor:
        grown = nn.functional.interpolate(x, scale_factor=2)
        return grown[:, :, : x.shape[2] // 2 * 2].reshape(x.shape[0] * x.shape[1], -1)


BATCH = Dim("batch")


@pytest.mark.parametrize(
    ("network", "inputs", "shapes"),
    [
        (Small(), (torch.ones(4, 4),), ({0: Dim.AUTO},)),
        (Scale(), (torch.ones(4, 2), torch.ones(8, 2)), ({0: BATCH}, {0: 2 * BATCH})),
        (Recurrent(), (torch.zeros(4, 5, dtype=torch.int64),), ({0: Dim.AUTO, 1: Dim.AUTO},)),
        (Shapes(), (torch.rand(3, 2, 6, 6),), ({0: Dim.AUTO, 2: Dim.AUTO},)),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), (torch.rand(3, 1, 5, 5),), None),
    ],
    ids=["dense", "derived shapes", "recurrent", "shape arithmetic", "buffers"],
)
def test_plain_networks(
    tmp_path: Path, network: nn.Module, inputs: tuple[Tensor, ...], shapes: Any
) -> None:
    export(network, inputs, shapes, tmp_path / "net.pt2")
    program = read_pt2(tmp_path / "net.pt2")
    torch.testing.assert_close(program.module()(*inputs), network(*inputs))
    assert program.state_dict.keys() == network.state_dict().keys()


def test_the_harmless_archive_is_read(entries: Entries, tmp_path: Path) -> None:
    document = json.loads(entries[MODEL])
    read(as_zip({**entries, MODEL: json.dumps(document).encode()}), tmp_path)


# Code in the archive


def nodes(document: Any) -> Any:
    return document["graph_module"]["graph"]["nodes"]


def signature(document: Any) -> Any:
    return document["graph_module"]["module_call_graph"][0]["signature"]


def rename(document: Any, old: str, new: str) -> None:
    """Write another name wherever a name stands."""
    text = json.dumps(document).replace(json.dumps(old), json.dumps(new))
    document.clear()
    document.update(json.loads(text))


def string(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "arg": {"as_string": value}, "kind": 1}


def code(canary: Path) -> str:
    return f"__import__('os').system('touch {canary}')"


def call(target: str) -> Edit:
    """Call something with the canary's name."""

    def edit(document: Any, entries: Entries, canary: Path) -> None:
        node = nodes(document)[1]
        node["target"] = target
        node["inputs"] = [*node["inputs"][:1], string("f", str(canary))]

    return edit


def call_hidden(document: Any, entries: Entries, canary: Path) -> None:
    """PyTorch ignores keys that it does not know."""
    call("torch.save")(document, entries, canary)
    nodes(document)[1]["arg"] = None


def call_in_a_list(document: Any, entries: Entries, canary: Path) -> None:
    nodes(document)[1]["target"] = ["torch.save"]


def from_file(document: Any, entries: Entries, canary: Path) -> None:
    """ATen, functional by its schema, and it creates files."""
    node = nodes(document)[1]
    node["target"] = "torch.ops.aten.from_file.default"
    node["inputs"] = [
        string("filename", str(canary)),
        {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
        {"name": "size", "arg": {"as_int": 6}, "kind": 1},
    ]


def size(document: Any) -> Any:
    return document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]


def expression(make: Callable[[Path], Any]) -> Edit:
    """Put something where a shape expression stands."""

    def edit(document: Any, entries: Entries, canary: Path) -> None:
        size(document)[0] = {"as_expr": {"expr_str": make(canary), "hint": None}}

    return edit


def expression_under_a_harmless_name(document: Any, entries: Entries, canary: Path) -> None:
    """A tensor may be called like a part of the document that only people read."""
    rename(document, "x", "metadata")
    values = document["graph_module"]["graph"]["tensor_values"]["metadata"]
    values["sizes"][0] = {"as_expr": {"expr_str": code(canary), "hint": None}}


def input_name(document: Any, entries: Entries, canary: Path) -> None:
    """Names of inputs become Python source."""
    rename(document, "x", f"x={code(canary)}")


def argument_name(document: Any, entries: Entries, canary: Path) -> None:
    signature(document)["forward_arg_names"] = [f"x={code(canary)}"]


def tensor_name(document: Any, entries: Entries, canary: Path) -> None:
    """Names of tensors become Python source."""
    evil = (
        f'dense", __import__("os") and getattr(__import__("os"),"system")("touch {canary}") '
        'or "weight'
    )
    rename(document, "dense.weight", evil)
    config = json.loads(entries[WEIGHTS])
    rename(config, "dense.weight", evil)
    entries[WEIGHTS] = json.dumps(config).encode()


def range_name(document: Any, entries: Entries, canary: Path) -> None:
    document["range_constraints"] = {code(canary): {"min_val": 0, "max_val": 9}}


LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def structure(kind: str, context: Callable[[Path], Any]) -> Edit:
    """Nest the output in something."""

    def edit(document: Any, entries: Entries, canary: Path) -> None:
        tree = {"type": kind, "context": json.dumps(context(canary)), "children_spec": [LEAF]}
        signature(document)["out_spec"] = json.dumps([1, tree])

    return edit


def keyword_name(document: Any, entries: Entries, canary: Path) -> None:
    keywords = {
        "type": "builtins.dict",
        "context": json.dumps([f"x={code(canary)}"]),
        "children_spec": [LEAF],
    }
    positions = {"type": "builtins.tuple", "context": "null", "children_spec": []}
    tree = {"type": "builtins.tuple", "context": "null", "children_spec": [positions, keywords]}
    signature(document)["in_spec"] = json.dumps([1, tree])


def import_enum(canary: Path) -> Any:
    return [{"__enum__": True, "fqn": "spq_evil:factory", "name": "x"}]


def import_factory(canary: Path) -> Any:
    return {
        "default_factory_module": "spq_evil",
        "default_factory_name": "factory",
        "dict_context": ["a"],
    }


class System:
    """Unpickles by running a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def gadget(canary: Path) -> bytes:
    return pickle.dumps(System(f"touch {canary}"), protocol=2)


def pickled_samples(document: Any, entries: Entries, canary: Path) -> None:
    entries[SAMPLES] = gadget(canary)


def pickled_samples_in_a_zip(document: Any, entries: Entries, canary: Path) -> None:
    stream = io.BytesIO()
    torch.save(((System(f"touch {canary}"),), {}), stream)
    entries[SAMPLES] = stream.getvalue()


def pickled_weights(document: Any, entries: Entries, canary: Path) -> None:
    config = json.loads(entries[WEIGHTS])
    for payload in config["config"].values():
        payload["use_pickle"] = True
        entries[f"net/data/weights/{payload['path_name']}"] = gadget(canary)
    entries[WEIGHTS] = json.dumps(config).encode()


def pickled_legacy_weights(document: Any, entries: Entries, canary: Path) -> None:
    entries["net/data/weights/model.pt"] = gadget(canary)


def pickled_constant(prefix: str) -> Edit:
    def edit(document: Any, entries: Entries, canary: Path) -> None:
        payload = copy.deepcopy(json.loads(entries[WEIGHTS])["config"]["dense.weight"])
        payload |= {"path_name": f"{prefix}_0", "use_pickle": True}
        entries[CONSTANTS] = json.dumps({"config": {"evil": payload}}).encode()
        entries[f"net/data/constants/{prefix}_0"] = gadget(canary)

    return edit


def guard(document: Any, entries: Entries, canary: Path) -> None:
    document["guards_code"] = [code(canary)]


def extra_entry(name: str) -> Edit:
    def edit(document: Any, entries: Entries, canary: Path) -> None:
        entries[name] = gadget(canary)

    return edit


ATTACKS: dict[str, Edit] = {
    "torch.save": call("torch.save"),
    "torch.hub": call("torch.hub.load"),
    "custom namespace": call("torch.ops.mylib.run.default"),
    "higher order": call("torch.ops.higher_order.cond"),
    "aten.save": call("torch.ops.aten.save.default"),
    "class attribute": call("torch.ops.aten.add.__class__.mro"),
    "methodcaller": call("_operator.methodcaller"),
    "operator.call": call("_operator.call"),
    "extension": call("#torch.ops.aten.add"),
    "math": call("math.sqrt"),
    "builtins": call("builtins.eval"),
    "line break": call("torch.ops.aten.relu.default\n"),
    "hidden call": call_hidden,
    "listed call": call_in_a_list,
    "from_file": from_file,
    "expression": expression(code),
    "expression with attributes": expression(lambda canary: "().__class__"),
    "expression in a dict": expression(lambda canary: {code(canary): 1}),
    "expression in a list": expression(lambda canary: [code(canary)]),
    "expression with a string": expression(lambda canary: "Symbol('s0').__class__('x')"),
    "expression of an unknown function": expression(lambda canary: "open(0)"),
    "power tower": expression(lambda canary: "9**9**9**9**9"),
    "power of a long number": expression(lambda canary: "Pow(9, 999999999999)"),
    "shift": expression(lambda canary: "1<<99999999999999"),
    "expression under a harmless name": expression_under_a_harmless_name,
    "input name": input_name,
    "argument name": argument_name,
    "keyword name": keyword_name,
    "tensor name": tensor_name,
    "range name": range_name,
    "enum": structure("builtins.dict", import_enum),
    "defaultdict": structure("collections.defaultdict", import_factory),
    "aoti entry": extra_entry("net/data/aotinductor/model/model.so"),
    "code entry": extra_entry("net/code/__torch__.py"),
    "legacy entry": extra_entry("serialized_state_dict.pt"),
    "model of another suffix": extra_entry("net/models/other.pt"),
    "parent folder": extra_entry("net/../evil"),
    "custom object": pickled_constant("custom_obj"),
    "opaque object": pickled_constant("opaque_obj"),
}
PICKLES: dict[str, Edit] = {
    "samples": pickled_samples,
    "samples in a zip": pickled_samples_in_a_zip,
    "weights": pickled_weights,
    "legacy weights": pickled_legacy_weights,
    "constants": pickled_constant("tensor"),
}


def forged(entries: Entries, edit: Edit, canary: Path) -> bytes:
    document, changed = json.loads(entries[MODEL]), dict(entries)
    edit(document, changed, canary)
    return as_zip({**changed, MODEL: json.dumps(document).encode()})


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused(
    name: str, entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "spq_evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nfactory = int\n")
    monkeypatch.syspath_prepend(tmp_path)
    error = refused(forged(entries, ATTACKS[name], canary), tmp_path)
    assert error.code == Reason.UNSAFE_MODEL
    assert not canary.exists()
    assert "spq_evil" not in sys.modules


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_do_not_run(name: str, entries: Entries, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    refused(forged(entries, PICKLES[name], canary), tmp_path)
    assert not canary.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_guards_are_dropped(entries: Entries, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    program = read(forged(entries, guard, canary), tmp_path)
    assert program._guards_code == []
    assert not canary.exists()


def test_the_attacks_are_real(entries: Entries, tmp_path: Path) -> None:
    """PyTorch's own reader runs code that stands in a name."""
    canary = tmp_path / "canary"
    path = tmp_path / "net.pt2"
    path.write_bytes(forged(entries, tensor_name, canary))
    with pytest.raises(RuntimeError):
        torch.export.load(path).module()(torch.ones(2, 4))
    assert canary.exists()


def test_the_caller_s_environment_stays(
    entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    read(as_zip(entries), tmp_path)
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"


# Archives that are more than one


def split(archive: bytes) -> tuple[bytes, bytearray, bytearray]:
    """Return the entries, the directory and the end record."""
    end = archive.rindex(b"PK\5\6")
    length = int.from_bytes(archive[end + 12 : end + 16], "little")
    start = int.from_bytes(archive[end + 16 : end + 20], "little")
    return archive[:start], bytearray(archive[start : start + length]), bytearray(archive[end:])


def two_faced(harmless: bytes, hostile: bytes) -> bytes:
    """Return a zip in which Python finds the first archive and PyTorch the second.

    Python takes the directory that ends where the end record begins and shifts all offsets;
    PyTorch takes the offset that the end record names.
    """
    shown, shown_directory, end = split(harmless)
    hidden, hidden_directory, _ = split(hostile)
    assert len(shown_directory) == len(hidden_directory)
    shift = len(hidden_directory) + len(shown)
    place = 0
    while place < len(shown_directory):
        at = int.from_bytes(shown_directory[place + 42 : place + 46], "little")
        at += len(hidden) + len(hidden_directory) - shift
        shown_directory[place + 42 : place + 46] = at.to_bytes(4, "little")
        lengths = [
            int.from_bytes(shown_directory[place + skip : place + skip + 2], "little")
            for skip in (28, 30, 32)
        ]
        place += 46 + sum(lengths)
    end[16:20] = len(hidden).to_bytes(4, "little")
    return b"".join([hidden, hidden_directory, shown, shown_directory, end])


def test_what_was_inspected_is_what_is_read(entries: Entries, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    document, hostile = json.loads(entries[MODEL]), dict(entries)
    tensor_name(document, hostile, canary)
    hostile[MODEL] = json.dumps(document).encode() + b" " * 60_000
    content = two_faced(as_zip(entries), as_zip(hostile))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read(MODEL) == entries[MODEL]
    inner = torch._C.PyTorchFileReader(io.BytesIO(content))
    assert inner.get_record("models/model.json") == hostile[MODEL]
    try:
        program = read(content, tmp_path)
    except SpqError:
        program = None
    assert program is None or "dense.weight" in program.state_dict
    assert not canary.exists()


def test_two_entries_of_one_name(entries: Entries, tmp_path: Path) -> None:
    twin = MODEL.replace("net", "NET")
    for name in ("net/byteorder", "net/Models/model.json", twin):
        content = as_zip({**entries, "net/data/weights/other": b""})
        forged = content.replace(b"net/data/weights/other", name.encode().ljust(22, b"x"))
        assert refused(forged, tmp_path).code in {Reason.UNSAFE_MODEL, Reason.BAD_MODEL}
    stream = io.BytesIO(as_zip(entries))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(MODEL, entries[MODEL])
    assert refused(stream.getvalue(), tmp_path).code == Reason.UNSAFE_MODEL


def test_compressed_entries(entries: Entries, tmp_path: Path) -> None:
    """A few bytes of a compressed entry could ask for all memory."""
    content = as_zip(entries, zipfile.ZIP_DEFLATED)
    assert refused(content, tmp_path).code == Reason.UNSAFE_MODEL


def test_overlapping_entries(entries: Entries, tmp_path: Path) -> None:
    """Many entries over the same bytes."""
    large = {**entries, **{f"net/data/weights/w{index}": b"" for index in range(40)}}
    content = as_zip({**large, "net/data/weights/w99": bytes(100_000)})
    body, directory, end = split(content)
    place = 0
    while place < len(directory):
        lengths = [
            int.from_bytes(directory[place + skip : place + skip + 2], "little")
            for skip in (28, 30, 32)
        ]
        name = directory[place + 46 : place + 46 + lengths[0]]
        if name.startswith(b"net/data/weights/w") and not name.endswith(b".json"):
            directory[place + 20 : place + 28] = (100_000).to_bytes(4, "little") * 2
        place += 46 + sum(lengths)
    error = refused(body + directory + end, tmp_path)
    assert error.code == Reason.UNSAFE_MODEL
    assert "overlap" in error.message


def test_only_refusals_leave_on_damage(entries: Entries, tmp_path: Path) -> None:
    whole = as_zip(entries)
    path = tmp_path / "net.pt2"
    directory = whole.index(b"PK\1\2")
    places = [*range(0, directory, 401), *range(directory, len(whole), 23)]
    reasons = set()
    for place in places:
        for content in (
            whole[:place],
            whole[:place] + bytes([whole[place] ^ 0x84]) + whole[place + 1 :],
        ):
            path.write_bytes(content)
            try:
                read_pt2(path)
            except SpqError as error:
                reasons.add(error.code)
    assert reasons == {Reason.BAD_MODEL, Reason.UNSAFE_MODEL}


@pytest.mark.parametrize("text", ["{", "[]", "null", "3", '{"graph_module": 3}', "[" * 100_000])
def test_documents_that_are_none(entries: Entries, tmp_path: Path, text: str) -> None:
    content = as_zip({**entries, MODEL: text.encode()})
    assert refused(content, tmp_path).code == Reason.BAD_MODEL
