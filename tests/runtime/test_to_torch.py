"""State dicts and modules come back whole, and a model that does not fit stays as it was."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spq
from spqformat import Limits, Reason, SpqError


def file_of(tensors: dict[str, Tensor], **options: Any) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream, **options)
    return stream.getvalue()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.norm = nn.BatchNorm1d(5)
        self.second = nn.Linear(5, 5, bias=False)
        self.tied = self.second

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.tied(self.second(self.norm(self.first(inputs))))
        return outputs


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Network()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(
        torch.equal(tensor, second[name]) and tensor.dtype == second[name].dtype
        for name, tensor in first.items()
    )


DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int16),
    *(torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    torch.bool,
)


@pytest.mark.parametrize("shape", [(), (6,), (30, 40), (0, 2)])
def test_state_dict_of_every_type(shape: tuple[int, ...]) -> None:
    count = torch.Size(shape).numel()
    tensors = {str(dtype): (torch.arange(count) % 5).to(dtype).reshape(shape) for dtype in DTYPES}
    state = spq.load_state_dict(file_of(tensors))
    assert list(state) == sorted(tensors)
    for name, tensor in tensors.items():
        assert state[name].dtype == tensor.dtype
        assert state[name].shape == tensor.shape
        assert torch.equal(state[name], tensor)
        assert state[name].is_contiguous()
        assert not state[name].requires_grad


def test_tensors_may_be_written_to() -> None:
    state = spq.load_state_dict(file_of({"a": torch.zeros(500), "b": torch.ones(3)}))
    state["a"] += 1
    state["b"] += 1
    assert bool((state["a"] == 1).all())
    assert bool((state["b"] == 2).all())


def test_tied_names_share_one_tensor() -> None:
    weight = torch.arange(6.0)
    data = file_of({"b": weight, "a": weight, "c": weight.clone()})
    for dtype in (None, torch.float64):
        state = spq.load_state_dict(data, dtype=dtype)
        assert state["a"] is state["b"]
        assert state["c"] is not state["a"]
        assert list(state) == ["a", "b", "c"]


def test_only_floating_point_is_converted() -> None:
    tensors = {
        "bf16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "f64": torch.tensor([0.25], dtype=torch.float64),
        "i64": torch.tensor([1 << 40]),
        "bool": torch.tensor([True]),
    }
    state = spq.load_state_dict(file_of(tensors), dtype=torch.float16)
    assert state["bf16"].dtype == state["f64"].dtype == torch.float16
    assert state["bf16"].tolist() == [1.5, -2.0]
    assert (state["i64"].dtype, state["bool"].dtype) == (torch.int64, torch.bool)
    assert state["i64"].item() == 1 << 40


def test_device() -> None:
    data = file_of({"a": torch.zeros(3)})
    assert spq.load_state_dict(data, device="meta")["a"].is_meta
    assert spq.load_state_dict(data, device=torch.device("cpu"))["a"].device.type == "cpu"


def test_into_a_model(network: Network) -> None:
    other = Network()
    other.train()
    loaded = spq.load(file_of(network.state_dict()), model=other)
    assert loaded is other
    assert not other.training
    assert same(snapshot(network), snapshot(other))
    inputs = torch.rand(4, 6)
    network.eval()
    assert torch.equal(network(inputs), loaded(inputs))
    assert other.tied is other.second


def test_into_a_model_of_another_type(network: Network) -> None:
    loaded = spq.load(file_of(network.state_dict()), model=Network(), dtype=torch.float64)
    state = loaded.state_dict()
    assert state["first.weight"].dtype == torch.float64
    assert state["norm.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(state["first.weight"], network.first.weight.double())


def refused(data: bytes, model: nn.Module, **options: Any) -> str:
    """Load into a model that does not fit; return the sentence."""
    before = snapshot(model)
    training = model.training
    with pytest.raises(SpqError) as caught:
        spq.load(data, model=model, **options)
    assert caught.value.code is Reason.MODEL_MISMATCH
    assert same(before, snapshot(model))
    assert model.training is training
    return caught.value.message


def test_missing_names(network: Network) -> None:
    state = network.state_dict()
    del state["first.bias"]
    assert "lacks 'first.bias'; pass the model" in refused(file_of(state), network)
    assert "lacks 'first.weight', 'first.bias', 'norm.weight' and 6 more" in refused(
        file_of({}), network
    )


def test_unexpected_names(network: Network) -> None:
    data = file_of({**network.state_dict(), "extra": torch.zeros(2)})
    assert "has unexpected 'extra'" in refused(data, network)


@pytest.mark.parametrize("strict", [True, False])
def test_other_shapes(network: Network, strict: bool) -> None:
    state = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    state["second.weight"] = torch.zeros(5, 6)
    state["tied.weight"] = torch.zeros(5, 5)
    message = refused(file_of(state), network, strict=strict)
    assert "'second.weight' has shape (5, 6) in the file and (5, 5) in the model" in message


def test_names_may_differ_where_that_is_asked_for(network: Network) -> None:
    data = file_of({"first.bias": torch.full((5,), 7.0), "extra": torch.zeros(2)})
    before = snapshot(network)
    spq.load(data, model=network, strict=False)
    assert bool((network.first.bias == 7).all())
    before["first.bias"] = network.first.bias
    assert same(before, snapshot(network))


def test_damage_leaves_the_model_unchanged(network: Network) -> None:
    data = bytearray(file_of({name: tensor + 1 for name, tensor in network.state_dict().items()}))
    data[-1] ^= 1
    before = snapshot(network)
    with pytest.raises(SpqError) as caught:
        spq.load(bytes(data), model=network)
    assert caught.value.code is Reason.CHECKSUM_MISMATCH
    assert same(before, snapshot(network))


def test_no_program() -> None:
    with pytest.raises(SpqError, match=r"model=\.\.\.") as caught:
        spq.load(file_of({"a": torch.zeros(3)}))
    assert caught.value.code is Reason.NO_PROGRAM


def test_limits() -> None:
    data = file_of({"a": torch.zeros(300)})
    for load in (spq.load, spq.load_state_dict):
        with pytest.raises(SpqError) as caught:
            load(data, limits=Limits(max_decoded_bytes=1199))
        assert caught.value.code is Reason.LIMIT_EXCEEDED


def test_device_that_is_not_there(network: Network) -> None:
    data = file_of(network.state_dict())
    before = snapshot(network)
    for load in (spq.load_state_dict, lambda file, **to: spq.load(file, network, **to)):
        for device in ("nowhere", "xpu:77"):
            with pytest.raises(SpqError, match="no device") as caught:
                load(data, device=device)
            assert caught.value.code is Reason.BAD_ARGUMENT
    assert same(before, snapshot(network))


def test_type_that_is_not_floating_point(network: Network) -> None:
    data = file_of({"a": torch.zeros(3, dtype=torch.int32)})
    with pytest.raises(SpqError, match="not decoded into") as caught:
        spq.load_state_dict(data, dtype=torch.int32)
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_wider_types_are_within_the_limits() -> None:
    data = file_of({"a": torch.zeros(300), "b": torch.zeros(300, dtype=torch.int64)})
    limits = Limits(max_decoded_bytes=300 * 12)
    assert spq.load_state_dict(data, limits=limits)["a"].dtype == torch.float32
    with pytest.raises(SpqError, match="in the types wanted") as caught:
        spq.load_state_dict(data, dtype=torch.float64, limits=limits)
    assert caught.value.code is Reason.LIMIT_EXCEEDED
