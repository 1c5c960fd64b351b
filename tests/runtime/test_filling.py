"""Tensors take the places of a module's own: no copies, ties kept, strangers refused by name."""

import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spq
from spqformat import Reason, SpqError


def file_of(tensors: dict[str, Tensor]) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream)
    return stream.getvalue()


class Tied(nn.Module):
    """A language model in small: input and output share their weight."""

    def __init__(self, *, ties: bool = True, device: str = "cpu") -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, device=device)
        self.norm = nn.BatchNorm1d(4, device=device)
        self.head = nn.Linear(4, 7, bias=False, device=device)
        if ties:
            self.head.weight = self.embedding.weight


STATE = {
    name: torch.randint(1, 9, tensor.shape).to(tensor.dtype)
    for name, tensor in Tied().state_dict().items()
} | {"head.weight": torch.zeros(7, 4)}
STATE["embedding.weight"] = torch.arange(28.0).reshape(7, 4)
STATE["head.weight"] = STATE["embedding.weight"]


@pytest.mark.parametrize("ties", [True, False])
def test_meta(ties: bool) -> None:
    model = Tied(ties=ties, device="meta")
    spq.load(file_of(STATE), model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, STATE[name])
    # The file ties them, whatever the module did.
    assert model.head.weight is model.embedding.weight
    assert type(model.head.weight) is nn.Parameter
    assert model.head.weight.requires_grad
    assert type(model.norm.running_mean) is Tensor


def test_one_of_tied_names_is_enough() -> None:
    state = {name: tensor for name, tensor in STATE.items() if name != "head.weight"}
    model = Tied(device="meta")
    spq.load(file_of(state), model)
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight, STATE["head.weight"])
    untied = Tied(ties=False)
    with pytest.raises(SpqError, match=r"lacks 'head\.weight'"):
        spq.load(file_of(state), untied)


def test_tied_names_with_equal_tensors() -> None:
    model = Tied()
    spq.load(file_of({**STATE, "head.weight": STATE["head.weight"].clone()}), model)
    assert model.head.weight is model.embedding.weight


def test_tied_names_that_differ() -> None:
    model = Tied()
    before = model.head.weight.clone()
    with pytest.raises(SpqError, match=r"ties 'head\.weight' to 'embedding\.weight'") as caught:
        spq.load(file_of({**STATE, "head.weight": torch.zeros(7, 4)}), model)
    assert caught.value.code is Reason.MODEL_MISMATCH
    assert torch.equal(model.head.weight, before)


def test_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    from_numpy = torch.from_numpy

    def noted(array: Any) -> Tensor:
        tensor = from_numpy(array)
        made.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(torch, "from_numpy", noted)
    for model in (Tied(), Tied(device="meta")):
        made.clear()
        spq.load(file_of(STATE), model)
        assert {tensor.data_ptr() for tensor in model.state_dict().values()} == set(made)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_keeps_its_types(dtype: torch.dtype) -> None:
    model = spq.load(file_of(STATE), Tied(device="meta").to(dtype))
    state = model.state_dict()
    assert state["norm.weight"].dtype == dtype
    assert state["norm.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(state["embedding.weight"], STATE["embedding.weight"].to(dtype))
    assert (
        spq.load(file_of(STATE), model, dtype=torch.float32).get_parameter("norm.weight").dtype
        == torch.float32
    )


def test_what_the_file_lacks_moves_along() -> None:
    model = spq.load(
        file_of({"norm.weight": torch.ones(4)}), Tied(), strict=False, dtype=torch.float64
    )
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float64}


def test_meta_tensors_that_the_file_lacks() -> None:
    model = Tied(device="meta")
    with pytest.raises(SpqError, match=r"'norm\.weight' of the model is on the meta") as caught:
        spq.load(
            file_of({n: t for n, t in STATE.items() if n != "norm.weight"}), model, strict=False
        )
    assert caught.value.code is Reason.MODEL_MISMATCH
    assert model.head.weight.is_meta
    model = Tied(device="meta")
    model.register_buffer("positions", torch.empty(3, device="meta"), persistent=False)
    with pytest.raises(SpqError, match="'positions' of the model is on the meta device"):
        spq.load(file_of(STATE), model)


def test_prefix_and_keys() -> None:
    data = file_of({f"net.{name}": tensor for name, tensor in STATE.items()} | {"n": torch.ones(2)})
    model = spq.load(data, Tied(device="meta"), prefix="net.")
    assert torch.equal(model.get_parameter("head.weight"), STATE["head.weight"])
    found = spq.load_state_dict(data, prefix="net.norm.", keys=lambda name: name != "bias")
    assert sorted(found) == ["num_batches_tracked", "running_mean", "running_var", "weight"]
    model = Tied()
    before = model.norm.weight.clone()
    spq.load(data, model, prefix="net.", keys=lambda name: "norm" not in name, strict=False)
    assert torch.equal(model.norm.weight, before)
    assert torch.equal(model.embedding.weight, STATE["embedding.weight"])
    with pytest.raises(SpqError, match="prefix and keys want a model") as caught:
        spq.load(data, prefix="net.")
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_unusual_strides() -> None:
    model = Tied(ties=False)
    model.head.weight = nn.Parameter(torch.rand(4, 7).T)
    model.norm.running_mean = torch.zeros(1).expand(4)
    spq.load(file_of(STATE), model)
    assert torch.equal(model.head.weight, STATE["head.weight"])
    assert torch.equal(model.norm.running_mean, STATE["norm.running_mean"])


class Odd(nn.Module):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.register_buffer("odd", tensor)


class Marked(Tensor):
    """A tensor of somebody else's class."""


def quantised() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        (quantised(), "is a torch.qint8"),
        (torch.ones(3).to_sparse(), "is a Tensor, no plain dense tensor"),
        (torch.ones(3).as_subclass(Marked), "is a Marked"),
        (torch.ones(3, dtype=torch.int32), "has type f32 in the file and torch.int32"),
        (torch.ones(3, dtype=torch.complex64), "has type f32 in the file and torch.complex64"),
        (torch.ones(4), r"has shape (3,) in the file and (4,)"),
    ],
)
def test_strangers(tensor: Tensor, part: str) -> None:
    with pytest.raises(SpqError) as caught:
        spq.load(file_of({"odd": torch.zeros(3)}), Odd(tensor), strict=False)
    assert caught.value.code is Reason.MODEL_MISMATCH
    assert caught.value.message.startswith(f"'odd' {'of the model ' if 'is a' in part else ''}")
    assert part in caught.value.message


def test_lazy_modules() -> None:
    model = nn.LazyLinear(3)
    data = file_of({"weight": torch.ones(3, 2), "bias": torch.ones(3)})
    with pytest.raises(SpqError, match=r"'(weight|bias)' of the model has no shape yet"):
        spq.load(data, model)


def test_modules_that_refuse() -> None:
    class Refuses(nn.Linear):
        loaded = False

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "bias" and self.loaded and value.sum() == 3:
                raise KeyError("not like this")
            super().__setattr__(name, value)

    model = Refuses(2, 3)
    model.loaded = True
    before = dict(model.named_parameters())
    with pytest.raises(SpqError, match=r"the model refuses the tensors: .not like this") as caught:
        spq.load(file_of({"weight": torch.ones(3, 2), "bias": torch.ones(3)}), model)
    assert caught.value.code is Reason.MODEL_MISMATCH
    assert all(model.get_parameter(name) is tensor for name, tensor in before.items())


def test_names_that_only_a_state_dict_knows() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model._register_state_dict_hook(  # type: ignore[no-untyped-call]
        lambda module, state, *_: {f"module.{name}": tensor for name, tensor in state.items()}
    )
    with pytest.raises(SpqError, match=r"lacks '0\.weight'"):
        spq.load(file_of(dict(model.state_dict())), model)


def test_one_stored_tensor_in_several_types() -> None:
    model = Tied(ties=False)
    model.embedding.half()
    with pytest.raises(SpqError, match="in several types") as caught:
        spq.load(file_of(STATE), model)
    assert caught.value.code is Reason.MODEL_MISMATCH
    assert spq.load(file_of(STATE), model, dtype=torch.float16) is model


def test_nan_is_itself() -> None:
    weight = torch.full((7, 4), torch.nan)
    state = {**STATE, "embedding.weight": weight, "head.weight": weight.clone()}
    assert bool(spq.load(file_of(state), Tied()).get_parameter("head.weight").isnan().all())


def test_buffers_that_are_not_kept_are_not_filled() -> None:
    model = Tied()
    model.register_buffer("positions", torch.ones(3), persistent=False)
    data = file_of({**STATE, "positions": torch.zeros(3)})
    with pytest.raises(SpqError, match="has unexpected 'positions'"):
        spq.load(data, model)
    spq.load(data, model, strict=False)
    assert bool((model.get_buffer("positions") == 1).all())
    model.register_buffer("positions", torch.empty(3, device="meta"), persistent=False)
    with pytest.raises(SpqError, match="'positions' of the model is on the meta device"):
        spq.load(data, model, strict=False)


def test_recurrent_layers() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, second = nn.LSTM(3, 4), nn.LSTM(3, 4, device="meta")
    loaded = spq.load(file_of(dict(first.state_dict())), second)
    inputs = torch.rand(5, 2, 3)
    assert torch.equal(loaded(inputs)[0], first(inputs)[0])


def test_types_that_are_not_floating_point() -> None:
    with pytest.raises(SpqError, match=r"not decoded into torch\.int8") as caught:
        spq.load_state_dict(file_of(STATE), dtype=torch.int8)
    assert caught.value.code is Reason.BAD_ARGUMENT


@pytest.mark.parametrize("threads", [1, 3])
def test_threads(threads: int) -> None:
    found = spq.load_state_dict(file_of(STATE), threads=threads)
    assert torch.equal(found["head.weight"], STATE["head.weight"])
    with pytest.raises(SpqError, match="0 threads"):
        spq.load_state_dict(file_of(STATE), threads=0)


def test_an_open_file() -> None:
    with spq.open(file_of(STATE)) as archive:
        first = spq.load_state_dict(archive)
        assert torch.equal(
            spq.load(archive, Tied()).get_parameter("head.weight"), first["head.weight"]
        )
        with pytest.raises(SpqError, match=r"give the limits to spq\.open") as caught:
            spq.load_state_dict(archive, limits=spq.Limits())
        assert caught.value.code is Reason.BAD_ARGUMENT
