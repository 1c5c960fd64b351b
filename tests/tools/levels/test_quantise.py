"""What a layer keeps, and nothing else, moves to few levels, in the light of its inputs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

from spqtools.evolve.compensation import compensate
from spqtools.evolve.moments import Moments, measure_moments
from spqtools.evolve.student import Layer, Student
from spqtools.levels import quantise
from spqtools.levels.alternatives import METHODS, Levels
from spqtools.levels.quantise import quantise_layer
from spqtools.levels.rounds import Round, Rounds

MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(24, 16), (200, 24)),
    "linear without bias": (lambda: nn.Linear(24, 16, bias=False), (200, 24)),
    "convolution": (lambda: nn.Conv2d(3, 8, 3), (30, 3, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6), (30, 6, 6, 6)),
}


def moments_of(name: str) -> tuple[Layer, Moments, Student]:
    make, shape = MAKERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(6)
        network = nn.Sequential(make()).eval()
        inputs = torch.randn(shape)
    graph = torch.export.export(network, (inputs,)).module()
    assert isinstance(graph, fx.GraphModule)
    student = Student(graph, [inputs], len(inputs))
    stop = next(student.walk(dict(student.original)))
    twin = next(student.walk(dict(student.original)))
    return stop.layer, measure_moments(stop, twin), student


def coupled(layer: Layer) -> list[torch.Tensor]:
    """Rows of which some errors cost more together than alone, and some less."""
    generator = torch.Generator().manual_seed(1)
    squares = []
    for _, rows in layer.blocks():
        errors = torch.randn(rows.stop - rows.start, 40, generator=generator) + 0.2
        squares.append(errors @ errors.T / 40)
    return squares


def uncoupled(layer: Layer) -> list[torch.Tensor]:
    """Rows whose errors all cost the same."""
    return [torch.eye(rows.stop - rows.start) for _, rows in layer.blocks()]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("max_levels", [1, 3, 15])
def test_a_layer_on_levels(name: str, max_levels: int) -> None:
    layer, moments, student = moments_of(name)
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    keep = weight.abs() > weight.abs().median()
    weight, bias = compensate(layer, moments, keep, weight, student.original.get("0.bias"))
    coupling = coupled(layer)
    levelled, fitted = quantise_layer(
        layer, moments, keep, weight, bias, coupling, 1e-5, max_levels
    )
    assert levelled.shape == weight.shape
    assert not levelled[~keep].any()
    distinct = torch.from_numpy(np.unique(levelled[levelled != 0].numpy()))
    assert 1 <= len(distinct) <= max_levels
    assert torch.equal(distinct.bfloat16().float(), distinct)
    assert (fitted is None) == (bias is None)
    if fitted is not None:
        assert fitted.shape == (layer.rows,)
        assert fitted.isfinite().all()


@pytest.mark.parametrize("name", MAKERS)
def test_quantising_knows_the_inputs(name: str) -> None:
    """The output suffers less than from rounding every weight to the nearest level."""
    layer, moments, student = moments_of(name)
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    bias = student.original.get("0.bias")
    keep = torch.ones_like(weight, dtype=torch.bool)
    levelled, fitted = quantise_layer(layer, moments, keep, weight, bias, uncoupled(layer), 1e-7, 7)
    values = torch.from_numpy(np.unique(levelled[levelled != 0].numpy()))
    nearest = values[(weight[..., None] - values).abs().argmin(-1)]

    def error(candidate: torch.Tensor, constant: torch.Tensor | None) -> float:
        tensors = {"0.weight": candidate.reshape(student.original["0.weight"].shape)}
        if constant is not None:
            tensors["0.bias"] = constant
        wanted = student.outputs(student.original)[0][0]
        return float((student.outputs(tensors)[0][0] - wanted).square().mean())

    assert error(levelled, fitted) < error(nearest, bias)


@pytest.mark.parametrize(
    ("kept", "left"), [((0, 1), 0.6), ((0, 1, 2), 0.36 ** (1 / 3)), ((0, 2), 1)]
)
@pytest.mark.parametrize("are_coupled", [False, True])
def test_the_share_of_an_error_that_others_do_not_make_up_for(
    kept: tuple[int, ...], left: float, are_coupled: bool
) -> None:
    """Of two features that go along by 0.8, either leaves 0.36 of the other; of two rows, too."""
    layer, moments, student = moments_of("linear")
    hessian, (coupling,) = torch.eye(layer.columns + 1), uncoupled(layer)
    hessian[0, 1] = hessian[1, 0] = 0.8
    if are_coupled:
        coupling[3, 5] = coupling[5, 3] = 0.8
        left *= 0.36 ** (1 / layer.rows)
    weight, bias = student.original["0.weight"], student.original["0.bias"]
    keep = torch.zeros_like(weight, dtype=torch.bool)
    keep[2, list(kept)] = True
    inputs = replace(moments, inputs=hessian[None])
    task = quantise._Task(layer, inputs, [coupling.double()], keep, weight, bias, may_zero=True)
    assert task.share_left() == pytest.approx(left, rel=0.02)


def test_nothing_kept() -> None:
    layer, moments, student = moments_of("linear")
    weight = student.original["0.weight"]
    levelled, fitted = quantise_layer(
        *(layer, moments, torch.zeros_like(weight, dtype=torch.bool), weight),
        *(student.original["0.bias"], uncoupled(layer), 1e-5, 15),
    )
    assert not levelled.any()
    assert fitted is not None


def test_levels_of_a_pattern_keep_it() -> None:
    layer, moments, student = moments_of("convolution")
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    bias, keep = student.original["0.bias"], torch.ones_like(weight, dtype=torch.bool)
    coupling = uncoupled(layer)
    levelled, _ = quantise_layer(
        layer, moments, keep, weight, bias, coupling, 1e-6, 7, methods=("powers-of-two",)
    )
    mantissas, _ = np.frexp(levelled[levelled != 0].abs().numpy())
    assert mantissas.size
    assert (mantissas == 0.5).all()


@pytest.mark.parametrize("bit_price", [1e-7, 1e-4])
def test_the_choice_is_that_of_one_method(bit_price: float) -> None:
    layer, moments, student = moments_of("linear")
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    bias, keep = student.original["0.bias"], torch.ones_like(weight, dtype=torch.bool)
    coupling = uncoupled(layer)

    def levelled(methods: tuple[str, ...] | None) -> torch.Tensor:
        chosen, _ = quantise_layer(
            layer, moments, keep, weight, bias, coupling, bit_price, 7, methods=methods
        )
        return chosen

    chosen = levelled(None)
    assert any(torch.equal(chosen, levelled((method,))) for method in METHODS)


def test_weights_that_no_level_is_worth_become_zero() -> None:
    layer, moments, student = moments_of("linear")
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    bias, keep = student.original["0.bias"], torch.ones_like(weight, dtype=torch.bool)
    levelled, fitted = quantise_layer(layer, moments, keep, weight, bias, uncoupled(layer), 1e3, 7)
    assert not levelled.any()
    assert fitted is not None


@pytest.mark.parametrize(("promise", "settled"), [(1.9, 5), (2.1, 4)])
def test_an_alternative_that_promises_far_more_is_left_out(
    monkeypatch: pytest.MonkeyPatch, promise: float, settled: int
) -> None:
    """Ternary levels are the only two."""
    layer, moments, student = moments_of("linear")
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    bias, keep = student.original["0.bias"], torch.ones_like(weight, dtype=torch.bool)
    settle, seen = quantise._Task.settle, []

    def see(task: quantise._Task, name: str, levels: Levels, *rest: Any) -> Any:
        seen.append(len(levels.values))
        return settle(task, name, levels, *rest)

    monkeypatch.setattr(quantise._Task, "settle", see)
    monkeypatch.setattr(
        quantise, "_promise", lambda _, __, levels, *___: promise if len(levels.values) == 2 else 1
    )
    quantise_layer(layer, moments, keep, weight, bias, uncoupled(layer), 1e-6, 7)
    assert len(seen) == settled
    assert (2 in seen) == (settled == 5)


@pytest.mark.parametrize("may_zero", [False, True])
def test_every_round_leads_to_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, may_zero: bool
) -> None:
    """Each alternative goes on from its last round, also where another one is behind."""
    layer, moments, student = moments_of("convolution")
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    bias, keep = student.original["0.bias"], weight.abs() > weight.abs().median()
    left: list[dict[str, Round]] = []
    assign, done = quantise._Attempt.assign, []

    def see(attempt: quantise._Attempt, *arguments: Any) -> Any:
        done.append(1)
        return assign(attempt, *arguments)

    def levelled(reached: dict[str, Round]) -> tuple[torch.Tensor, torch.Tensor | None]:
        done.clear()
        rounds = Rounds(reached, lambda: left.append(dict(reached)))
        return quantise_layer(
            layer,
            moments,
            keep,
            weight,
            bias,
            coupled(layer),
            1e-4,
            7,
            may_zero=may_zero,
            rounds=rounds,
        )

    monkeypatch.setattr(quantise._Attempt, "assign", see)
    wanted, fitted = levelled({})
    assert fitted is not None
    in_all, states = len(done), tuple(left)
    for reached in states:
        behind = sum(one.number for one in reached.values())
        again = {
            name: Round.from_tensors(one.number, one.tensors()) for name, one in reached.items()
        }
        found, bias_found = levelled(again)
        assert torch.equal(found, wanted)
        assert bias_found is not None
        assert torch.equal(bias_found, fitted)
        assert len(done) == in_all - behind


def test_levels_have_their_first_places_as_at_another_price() -> None:
    """A grid stays where it begins: a dear one is coarser."""
    layer, moments, student = moments_of("linear")
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    bias, keep = student.original["0.bias"], torch.ones_like(weight, dtype=torch.bool)

    def least(bit_price: float, initial_price: float | None) -> float:
        levelled, _ = quantise_layer(
            *(layer, moments, keep, weight, bias, uncoupled(layer), bit_price, 31),
            methods=("uniform",),
            initial_price=initial_price,
        )
        return float(levelled[levelled != 0].abs().min())

    cheap, dear = 1e-7, 1e-3
    assert least(dear, None) > 2 * least(cheap, None)
    assert least(cheap, dear) == least(dear, None)
