"""Shares of the work: whole, in proportion, and by what is really done."""

import pytest
import torch
from torch import fx, nn

from spqtools.evolve.student import Student
from spqtools.evolve.workload import Tries, spread_work


def shares(tries: Tries, *layers: nn.Module) -> list[float]:
    """The shares of the layers of a network, in order."""
    network = nn.Sequential(*layers).eval()
    inputs = torch.zeros(2, 8, 32, 32)
    graph = torch.export.export(network, (inputs,)).module()
    assert isinstance(graph, fx.GraphModule)
    student = Student(graph, [inputs], 2)
    found = spread_work(student.layers, student.needs().products, tries).layers
    assert sum(found.values()) == pytest.approx(1.0)
    return list(found.values())


def test_equal_layers_take_equal_shares_where_nothing_is_run() -> None:
    alike = shares(Tries(64, 20, 0), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    assert alike == pytest.approx([0.5, 0.5])


def test_early_layers_take_more_where_candidates_are_run() -> None:
    first, second = shares(
        Tries(64, 20, 10**4), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    )
    assert 1.5 * second < first < 2.5 * second


def test_wide_layers_take_most() -> None:
    first, second = shares(Tries(64, 20, 0), nn.Conv2d(8, 256, 3), nn.Conv2d(256, 256, 3))
    assert second > 10 * first
