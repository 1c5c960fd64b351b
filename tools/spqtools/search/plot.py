"""Draws the frontier of a search; the only module that imports matplotlib."""

from collections.abc import Sequence
from typing import BinaryIO

from matplotlib.figure import Figure

Place = tuple[float, float]
"""Ratio and divergence."""


def frontier_png(
    stream: BinaryIO, efficient: Sequence[Place], dominated: Sequence[Place], chosen: Place
) -> None:
    """Draw divergence against ratio.

    Parameters
    ----------
    stream : BinaryIO
        Receives the PNG, equal for equal points.
    efficient : sequence of tuple of float and float
        Points that no other point beats, by ratio.
    dominated : sequence of tuple of float and float
        The others.
    chosen : tuple of float and float
        The point that became the output.
    """
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if dominated:
        axes.plot(*_columns(dominated), "o", color="0.75", label="beaten by another file")
    axes.plot(*_columns(efficient), "o-", color="tab:blue", label="frontier")
    axes.plot(*_columns([chosen]), "*", color="tab:red", markersize=16, label="chosen")
    axes.set_xlabel("times smaller than float32")
    axes.set_ylabel("divergence from the original")
    # Points without a loss have no place on a logarithmic axis.
    if min(divergence for _, divergence in [*efficient, *dominated]) > 0.0:
        axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(stream, format="png", metadata={"Software": None})


def _columns(places: Sequence[Place]) -> tuple[list[float], list[float]]:
    return [ratio for ratio, _ in places], [divergence for _, divergence in places]
