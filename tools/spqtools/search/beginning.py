"""Begins a search: runs the teacher once, and refuses what cannot be searched."""

from math import isfinite

from torch import fx

from spqformat import Reason, SpqError
from spqformat.errors import first_line
from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.search import Evolution
from spqtools.progress import Tick
from spqtools.reading.calibration import Calibration
from spqtools.search.fitness import BUILT_IN, OPTION, named_fitness
from spqtools.search.goal import Options

# Less than this of a student's divergence is rounding.
_NOTHING = 1e-6
# A smaller share of parameters that no layer has is that of norms.
_WORTH_TELLING = 0.05


def begin_search(
    graph: fx.GraphModule, calibration: Calibration, options: Options, tick: Tick
) -> Evolution:
    """Run the teacher once and refuse what cannot be searched.

    Parameters
    ----------
    graph : fx.GraphModule
        Teacher.
    calibration : Calibration
        Its inputs.
    options : Options
        Effort, seed and fitness.
    tick : Tick
        Hears of each batch that the teacher has answered to.

    Raises
    ------
    SpqError
        `bad_calibration` for inputs that the network does not run on, `bad_argument` for a fitness
        that is none, `unsupported_model` for a network without layers.
    """
    fitness = None if options.fitness is None else named_fitness(options.fitness)
    effort = EFFORTS[options.effort]
    try:
        evolution = Evolution(
            graph, calibration.inputs, options.seed, effort, fitness=fitness, after_answers=tick
        )
    except SpqError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise SpqError(
            Reason.BAD_CALIBRATION,
            f"the network does not run on the calibration inputs ({first_line(error)}); "
            "check their number, shape and type",
        ) from error
    is_foreign = options.fitness is not None and options.fitness not in BUILT_IN
    if is_foreign and not abs(evolution.own_divergence) <= _NOTHING:
        raise SpqError(
            Reason.BAD_ARGUMENT,
            f"{OPTION} {options.fitness!r} must be 0 where student and original answer alike, and "
            f"is {evolution.own_divergence:.3g}; check it, and the calibration inputs",
        )
    if not isfinite(evolution.own_divergence):
        raise SpqError(
            Reason.BAD_CALIBRATION,
            "the network's own answers to the calibration inputs are not all finite numbers; "
            "check the inputs",
        )
    if not evolution.layers:
        raise SpqError(
            Reason.UNSUPPORTED_MODEL,
            "the network has no linear or convolutional layer to compress; leave out --calib",
        )
    return evolution


def remarks(evolution: Evolution, calibration: Calibration) -> tuple[str, ...]:
    """Return what a user should know of a search: what it supposes and what it does not look at."""
    found = []
    if calibration.labels is None and evolution.held_out_divergence.guesses_classes:
        found.append(
            f"outputs are taken for the scores of classes; give {OPTION} squared if they are not"
        )
    samples = evolution.inputs[0].shape[0]
    if evolution.walked + evolution.held < samples:
        found.append(
            f"of {samples:,} calibration inputs {evolution.walked:,} steer the search and "
            f"{evolution.held:,} judge it, as many as its memory holds"
        )
    parameters = sum(one.numel() for one in evolution.teacher.values() if one.is_floating_point())
    names = {name for layer in evolution.layers for name in (layer.weight, layer.bias) if name}
    left = parameters - sum(evolution.teacher[name].numel() for name in names)
    if left > _WORTH_TELLING * parameters:
        found.append(
            f"{left / parameters:.0%} of the parameters are not those of linear or convolutional "
            "layers and stay as they are"
        )
    return tuple(found)
