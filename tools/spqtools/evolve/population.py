"""Zero-sets of a layer: where proposals come from, and how sets recombine and mutate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spqtools.evolve.evidence import surely_less
from spqtools.evolve.moments import Moments, diagonal, inverse_diagonal
from spqtools.evolve.rng import Draws
from spqtools.evolve.student import Layer

_TINY = 1e-30
# Standard deviations of the noise on log-scores: what reshuffles a set near its threshold, and
# what makes a fresh one.
_MUTATION = 0.4
_FRESH = 1.0
# Head start of the parents' weights in a child, in the same units.
_HERITAGE = 0.7
# What stays of a proposal's credit from one layer to the next.
_FADING = 0.95


@dataclass(frozen=True)
class Individual:
    """A tentative zero-set.

    Parameters
    ----------
    keep : Tensor of bool, shape (rows, columns)
        What is not zeroed.
    parts : Tensor of float64, shape (pieces,)
        Divergence of the student from the teacher on some pieces of the samples, and what the set's
        bits are worth.
    """

    keep: Tensor
    parts: Tensor

    @property
    def fitness(self) -> float:
        """The mean over the pieces; less is better."""
        return float(self.parts.mean())


def criteria(
    layer: Layer, moments: Moments, weight: Tensor, sensitivity: Tensor
) -> dict[str, Tensor]:
    """Return log-scores of all weights by each criterion: the higher, the worthier to keep.

    Parameters
    ----------
    layer : Layer
        Geometry.
    moments : Moments
        Second moments of the layer's inputs.
    weight : Tensor of float32, shape (rows, columns)
        Present weights.
    sensitivity : Tensor of float32, shape (rows,)
        What an error of each row costs, see `Sensing.look`.

    Returns
    -------
    dict of str to Tensor
        ``magnitude``: |w|. ``wanda``: |w| times the input's root mean square (arXiv 2306.11695).
        ``fisher``: diagonal Gauss-Newton estimate w^2 h s. ``obs``: optimal brain surgeon,
        w^2 / [H^-1]. ``curvature``: the same times the row's sensitivity, a Kronecker-factored
        Hessian of the output's divergence. Float32, shape (rows, columns).
    """
    log_weight = weight.abs().clamp_min(_TINY).log()
    log_input = diagonal(layer, moments).clamp_min(_TINY).log()
    log_inverse = inverse_diagonal(layer, moments).clamp_min(_TINY).log()
    log_row = sensitivity.clamp_min(_TINY).log()[:, None]
    return {
        "magnitude": 2 * log_weight,
        "wanda": 2 * log_weight + log_input,
        "fisher": 2 * log_weight + log_input + log_row,
        "obs": 2 * log_weight - log_inverse,
        "curvature": 2 * log_weight - log_inverse + log_row,
    }


def top(scores: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Return the `count` allowed weights of the highest scores as a mask; ties by position."""
    flat = torch.where(allowed, scores, -torch.inf).flatten()
    keep = torch.zeros(flat.numel(), dtype=torch.bool)
    keep[torch.argsort(flat, descending=True, stable=True)[:count]] = True
    return (keep & allowed.flatten()).reshape(scores.shape)


def seeds(scores: Mapping[str, Tensor], bits: Tensor, draws: Draws) -> dict[str, Tensor]:
    """Return the scores of proposals: each criterion's, combinations of them, and random ones.

    The order is that of trust. `bits` are what a survivor takes at each place: ``rated`` is what is
    worth most for its bits.
    """
    proposals = {name: scores[name] for name in ("curvature", "obs", "fisher", "wanda")}
    proposals["blend"] = (scores["curvature"] + scores["fisher"]) / 2
    proposals["rated"] = scores["curvature"] - bits.log()
    proposals["magnitude"] = scores["magnitude"]
    proposals["shaken"] = scores["curvature"] + _FRESH * _noise(scores["curvature"], draws)
    proposals["random"] = _noise(scores["curvature"], draws)
    return proposals


def invite(
    proposals: Mapping[str, Tensor], credit: Mapping[str, float], count: int, draws: Draws
) -> dict[str, Tensor]:
    """Return the proposals that begin a population: those that have paid most so far.

    The most trusted is always among them, and the last place goes to one by chance, so that none
    is forgotten for good.

    Parameters
    ----------
    proposals : mapping of str to Tensor
        Scores in the order of trust.
    credit : mapping of str to float
        What each has earned; see `reward`.
    count : int
        How many are wanted.
    draws : Draws
        Chance.
    """
    trusted, *others = proposals
    others.sort(key=lambda name: -credit.get(name, 0.0))
    if 1 < count <= len(others):
        place = count - 2 + draws.below(len(others) - count + 2)
        others[count - 2], others[place] = others[place], others[count - 2]
    return {name: proposals[name] for name in [trusted, *others[: count - 1]]}


def reward(credit: dict[str, float], ranking: Sequence[str]) -> None:
    """Let the first two of a population's proposals earn credit; old credit fades."""
    for name in credit:
        credit[name] *= _FADING
    for name, earned in zip(ranking, (1.0, 0.5), strict=False):
        credit[name] = credit.get(name, 0.0) + earned


def recombine(
    first: Tensor, second: Tensor, scores: Tensor, allowed: Tensor, count: int, draws: Draws
) -> Tensor:
    """Return a child: what both parents keep, and the best of what they dispute, under noise."""
    heritage = _HERITAGE * (first.float() + second.float())
    disputed = scores + _MUTATION * _noise(allowed, draws) + heritage
    agreed = torch.where(first & second, torch.inf, disputed)
    return top(torch.where(first | second, agreed, -torch.inf), allowed, count)


def mutate(parent: Tensor, scores: Tensor, allowed: Tensor, count: int, draws: Draws) -> Tensor:
    """Return a child that swaps weights near its parent's threshold."""
    shaken = scores + _MUTATION * _noise(allowed, draws) + _HERITAGE * parent.float()
    return top(shaken, allowed, count)


def evolve(
    first_generation: Mapping[str, Tensor],
    breed: Callable[[list[Tensor], int], Tensor],
    assess: Callable[[Tensor, bool], Individual],
    generations: int,
    children: int,
    finalists: int,
) -> tuple[Individual, list[str]]:
    """Run generations of assessment, selection and breeding, and return the zero-set that wins.

    Racing: everybody is assessed on a few samples, the finalists on more. The first proposal is
    always among the finalists, and wins unless another is better by more than chance.

    Parameters
    ----------
    first_generation : mapping of str to Tensor of bool
        Zero-sets to begin with by the name of their proposal, the most trusted first.
    breed : callable
        ``breed(parents, number)`` returns a child of the fittest.
    assess : callable
        ``assess(keep, is_final)`` returns an individual, a final one from more samples.
    generations, children, finalists : int
        Generations after the first, children in each, and individuals that meet on more samples,
        besides the first proposal if it is not among them.

    Returns
    -------
    tuple of Individual and list of str
        The winner, and the names of the first generation from the fittest to the least fit.
    """
    raced = {name: assess(keep, False) for name, keep in first_generation.items()}
    ranking = sorted(raced, key=lambda name: raced[name].fitness)
    population = _unique([*raced.values()])
    trusted = population[0].keep
    for generation in range(generations):
        population.sort(key=lambda individual: individual.fitness)
        parents = [individual.keep for individual in population[: max(2, finalists)]]
        born = [
            assess(breed(parents, generation * children + child), False)
            for child in range(children)
        ]
        population = _unique([*population, *born])
    population.sort(key=lambda individual: individual.fitness)
    final = [individual.keep for individual in population[:finalists]]
    if not any(torch.equal(keep, trusted) for keep in final):
        final.append(trusted)
    finals = [assess(keep, True) for keep in final]
    fittest = min(finals, key=lambda individual: individual.fitness)
    safest = next(one for one in finals if torch.equal(one.keep, trusted))
    return (fittest if surely_less(fittest.parts, safest.parts) else safest), ranking


def _unique(individuals: list[Individual]) -> list[Individual]:
    """Drop individuals whose zero-set another one before them has."""
    kept: list[Individual] = []
    for individual in individuals:
        if not any(torch.equal(individual.keep, other.keep) for other in kept):
            kept.append(individual)
    return kept


def _noise(like: Tensor, draws: Draws) -> Tensor:
    """Return standard normal noise, float32, in the shape of a tensor."""
    return torch.from_numpy(draws.normal(like.numel())).float().reshape(like.shape)
