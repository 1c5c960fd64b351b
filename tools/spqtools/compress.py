"""From a teacher to a few levels and many zeros: the search, its goals and its checkpoints."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

import spq
from spqformat import Reason, SpqError
from spqtools.calibration import Calibration
from spqtools.evolve.moments import Moments
from spqtools.evolve.search import EFFORTS, Evolution, Sparse
from spqtools.evolve.student import Layer
from spqtools.goal import DEFAULT_MAX_DIVERGENCE, Options, Trial, next_density, planned_cycles
from spqtools.levels import entropy_constrained, round_to_step
from spqtools.progress import Progress, Tick
from spqtools.quantise import quantise_layer

State = dict[str, NDArray[np.generic]]
FileBytes = Callable[[Mapping[str, NDArray[np.generic]]], int]
"""Bytes of the whole file that a state would become."""

_THREADS = 2
_AUTO_BITS = 5
# A pruned student under this share of the budget is not quantised before the search goes on.
_TRUSTED_SHARE = 0.25
# No survivor costs less than this in any file, so larger students need not be encoded.
_LEAST_BITS_PER_SURVIVOR = 2.0
_BIAS_STEPS = (16, 32, 64, 128)
_BIAS_HARM = 1.01
# Data-free: divergence per bit in units of a layer's variance; about 3 % error of the weights.
_WEIGHTS_SLOPE = 1.2e-3
_WEIGHTS_BITS = 8
_WEIGHTS_BISECTIONS = 8
_CHECKPOINT_FORMAT = "1"


@dataclass(frozen=True)
class Compressed:
    """What a search has found.

    Parameters
    ----------
    state : dict of str to ndarray
        All tensors of the network; compressed ones have few distinct values.
    divergence : float or None
        Divergence from the teacher on held-out inputs; None for a data-free search.
    divergence_kind : str
        What the divergence means.
    evaluations : int
        Candidates that were assessed on the network.
    """

    state: State
    divergence: float | None
    divergence_kind: str
    evaluations: int


def compress(
    graph: fx.GraphModule,
    calibration: Calibration,
    options: Options,
    progress: Progress,
    *,
    checkpoint: Path | None = None,
    file_bytes: FileBytes | None = None,
) -> Compressed:
    """Evolve, quantise and measure until the goal is reached.

    Parameters
    ----------
    graph : fx.GraphModule
        Teacher as a graph of ATen calls with ``get_attr`` parameters; it is not changed.
    calibration : Calibration
        Inputs, the last quarter held out; labels are needed for `max_drop` alone.
    options : Options
        Goal, bits, effort, seed. Without a goal, the divergence may be 0.02.
    progress : Progress
        Hears of the cycles.
    checkpoint : Path, optional
        Where the search leaves its state after each cycle; if the file exists, the search goes on
        from it and ends with the same result.
    file_bytes : callable, optional
        Size of the file that a state becomes; by default of its tensors alone.

    Returns
    -------
    Compressed
        Reproducible for equal inputs and seed on one machine: the search runs on two threads
        whatever the process was set to.

    Raises
    ------
    SpqError
        `bad_calibration` when the network refuses the inputs or labels are missing,
        `unsupported_model` when it has no layer to compress, `goal_not_reached`,
        `bad_checkpoint`.
    """
    with _fixed_threads():
        evolution = _start(graph, calibration, options)
        search = _Search(evolution, calibration, options, file_bytes or _tensor_bytes)
        if checkpoint is not None and checkpoint.exists():
            search.restore(checkpoint)
        cycles = planned_cycles(options.sparsity, EFFORTS[options.effort])
        with progress.stage("evolve", cycles) as tick:
            search.run(checkpoint, tick)
        with progress.stage("place levels"):
            return search.result()


class _Search:
    """The outer loop: densities, verdicts, and the students they belong to."""

    def __init__(
        self,
        evolution: Evolution,
        calibration: Calibration,
        options: Options,
        file_bytes: FileBytes,
    ) -> None:
        self._evolution = evolution
        self._options = options
        self._effort = EFFORTS[options.effort]
        self._file_bytes = file_bytes
        self._float_bytes = sum(tensor.numel() * 4 for tensor in evolution.teacher.values())
        self._target_bytes = options.target_bytes(self._float_bytes)
        self._max_divergence = options.max_divergence
        if not any(
            (options.sparsity is not None, self._target_bytes, options.max_drop is not None)
        ):
            self._max_divergence = options.max_divergence or DEFAULT_MAX_DIVERGENCE
        self._labels = calibration.labels
        self._digest = _digest(evolution, options)
        self._trials: list[Trial] = []
        self._base = evolution.start()
        self._chosen = self._base
        self._teacher_hits = self._hits(evolution.teacher) if options.max_drop is not None else 0.0

    def run(self, checkpoint: Path | None, tick: Tick) -> None:
        """Try densities until the goal is met."""
        self._refuse_hopeless_size()
        for _ in self._trials:
            tick()
        while (density := self._next_density()) is not None:
            student = self._evolution.cycle(self._base, density, len(self._trials))
            trial = self._judge(student, density)
            # A size goal wants the first student that is small enough, a quality goal the last
            # that is good enough.
            if not trial.beyond:
                self._base = student
            if trial.beyond == (self._target_bytes is not None):
                self._chosen = student
            self._trials.append(trial)
            if checkpoint is not None:
                self._save(checkpoint)
            tick()
        if self._target_bytes is not None and not any(trial.beyond for trial in self._trials):
            raise _no_such_file(self._target_bytes)

    def _refuse_hopeless_size(self) -> None:
        """Refuse a size that even a student of zeros does not fit."""
        if self._target_bytes is None:
            return
        weights = {layer.weight for layer in self._evolution.layers}
        empty = {
            name: torch.zeros_like(tensor) if name in weights else tensor
            for name, tensor in self._evolution.teacher.items()
        }
        if self._file_bytes(_as_state(self._round_biases(empty))) > self._target_bytes:
            raise _no_such_file(self._target_bytes)

    def result(self) -> Compressed:
        """Quantise the chosen student and measure it."""
        tensors = self._quantise(self._chosen)
        divergence = self._evolution.measure(tensors)
        return Compressed(
            _as_state(tensors),
            divergence,
            self._evolution.divergence.description,
            self._evolution.evaluations,
        )

    def restore(self, checkpoint: Path) -> None:
        """Go back to where a checkpoint of the same search was written."""
        try:
            with spq.open(checkpoint) as archive:
                metadata = archive.metadata
                archive.verify()
                tensors = archive.tensors()
                tensors.update({tied: tensors[name] for tied, name in archive.aliases.items()})
        except SpqError as error:
            raise SpqError(
                Reason.BAD_CHECKPOINT,
                f"{checkpoint} is damaged ({error.code}); delete it or leave out --resume",
            ) from error
        if metadata.get("digest") != self._digest:
            raise SpqError(
                Reason.BAD_CHECKPOINT,
                f"{checkpoint} belongs to another search; delete it or leave out --resume",
            )
        saved = json.loads(metadata["search"])
        self._trials = [Trial(*trial) for trial in saved["trials"]]
        self._evolution.evaluations = saved["evaluations"]
        self._base = _load_student("base", tensors, saved["base"])
        self._chosen = _load_student("chosen", tensors, saved["chosen"])

    def _next_density(self) -> float | None:
        return next_density(self._trials, self._options.sparsity, self._effort)

    def _judge(self, student: Sparse, density: float) -> Trial:
        """Measure a student against the goal."""
        if self._options.sparsity is not None:
            return Trial(density, beyond=False)
        if self._target_bytes is not None:
            kept = sum(int(mask.sum()) for mask in student.keep.values())
            if kept * _LEAST_BITS_PER_SURVIVOR / 8 > self._target_bytes:
                return Trial(density, beyond=False)
            size = self._file_bytes(_as_state(self._quantise(student)))
            share = size / self._target_bytes
            return Trial(density, beyond=share <= 1.0, measured=share)
        if self._options.max_drop is not None:
            drop = self._teacher_hits - self._hits(self._quantise(student))
            return Trial(density, beyond=drop > self._options.max_drop)
        assert self._max_divergence is not None
        measured = self._evolution.measure(student.tensors)
        if _TRUSTED_SHARE * self._max_divergence < measured <= self._max_divergence:
            measured = self._evolution.measure(self._quantise(student))
        share = measured / self._max_divergence
        return Trial(density, beyond=share > 1.0, measured=share)

    def _hits(self, tensors: Mapping[str, Tensor]) -> float:
        """Return the per cent of right answers on the held-out samples."""
        outputs = self._evolution.held_out.outputs(tensors)
        predictions = self._evolution.held_out_divergence.predictions(outputs)
        if predictions is None or self._labels is None:
            raise SpqError(
                Reason.BAD_CALIBRATION,
                "accuracy needs labels 'y' in the calibration file and a classifier; "
                "use --max-divergence instead",
            )
        right = predictions == self._labels[-len(predictions) :]
        return 100.0 * float(right.double().mean())

    def _quantise(self, student: Sparse) -> dict[str, Tensor]:
        """Put the survivors on levels, walking once through the network, then round the biases."""
        evolution = self._evolution
        sensitivity = evolution.sensitivities(student.tensors, -1)
        max_levels = (1 << (self._options.bits or _AUTO_BITS)) - 1

        def revise(
            layer: Layer, moments: Moments, weight: Tensor, bias: Tensor | None
        ) -> dict[str, Tensor]:
            levelled, fitted = quantise_layer(
                layer,
                moments,
                student.keep[layer.weight],
                weight,
                bias,
                sensitivity[layer.weight],
                student.slope,
                max_levels,
                may_zero=self._options.sparsity is None,
            )
            named = {layer.weight: levelled.reshape(student.tensors[layer.weight].shape)}
            if layer.bias is not None and fitted is not None:
                named[layer.bias] = fitted
            return named

        return self._round_biases(evolution.revise(student, revise))

    def _round_biases(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Round the layers' biases to the coarsest step that does no measurable harm."""
        names = [layer.bias for layer in self._evolution.layers if layer.bias is not None]
        exact = self._evolution.measure(tensors)
        for steps in _BIAS_STEPS:
            rounded = dict(tensors)
            for name in names:
                rounded[name] = torch.from_numpy(round_to_step(tensors[name].numpy(), steps))
            if self._evolution.measure(rounded) <= exact * _BIAS_HARM + 1e-7:
                return rounded
        return tensors

    def _save(self, checkpoint: Path) -> None:
        """Write the checkpoint atomically."""
        tensors: dict[str, Tensor] = {}
        students = {"base": self._base, "chosen": self._chosen}
        for role, student in students.items():
            tensors |= {f"{role}/tensor/{name}": value for name, value in student.tensors.items()}
            tensors |= {f"{role}/keep/{name}": value for name, value in student.keep.items()}
        search = {
            "trials": [[trial.density, trial.beyond, trial.measured] for trial in self._trials],
            "evaluations": self._evolution.evaluations,
            **{role: [student.tilt, student.price] for role, student in students.items()},
        }
        spq.save(
            tensors, checkpoint, metadata={"digest": self._digest, "search": json.dumps(search)}
        )


def compress_weights(
    state: Mapping[str, NDArray[np.generic]],
    options: Options,
    progress: Progress,
    *,
    file_bytes: FileBytes | None = None,
) -> Compressed:
    """Compress without data: magnitude decides the zeros, the weights' own spread the levels.

    Parameters
    ----------
    state : mapping of str to ndarray
        Tensors of a network; float32 ones of two and more dimensions are compressed.
    options : Options
        `sparsity`, `target_ratio` or `target_size`; without one nothing is zeroed.
    progress : Progress
        Hears of the trials.
    file_bytes : callable, optional
        Size of the file that a state becomes; by default of its tensors alone.

    Returns
    -------
    Compressed
        Without a divergence, since nothing was run.

    Raises
    ------
    SpqError
        `bad_argument` for goals that need data, `goal_not_reached`.
    """
    if options.max_divergence is not None or options.max_drop is not None:
        raise SpqError(Reason.BAD_ARGUMENT, "this goal needs calibration inputs; pass --calib")
    measure = file_bytes or _tensor_bytes
    float_bytes = sum(array.size * 4 for array in state.values())
    target = options.target_bytes(float_bytes)
    with progress.stage("place levels", _WEIGHTS_BISECTIONS if target else 1) as tick:
        if target is None:
            compressed = _quantise_weights(state, options.sparsity or 0.0, options.bits)
            tick()
            return Compressed(compressed, None, "not measured", 0)
        small: State | None = None
        low, high = 0.0, 1.0 - 2.0**-10
        for _ in range(_WEIGHTS_BISECTIONS):
            middle = 1.0 - ((1.0 - low) * (1.0 - high)) ** 0.5
            candidate = _quantise_weights(state, middle, options.bits)
            if measure(candidate) <= target:
                small, high = candidate, middle
            else:
                low = middle
            tick()
    if small is None:
        raise _no_such_file(target)
    return Compressed(small, None, "not measured", 0)


def _quantise_weights(
    state: Mapping[str, NDArray[np.generic]], sparsity: float, bits: int | None
) -> State:
    """Zero the smallest weights of each matrix and put the others on levels."""
    compressed: State = {}
    for name, array in state.items():
        if array.dtype != np.float32 or array.ndim < 2 or not np.isfinite(array).all():
            compressed[name] = array
            continue
        weights = array.reshape(-1).astype(np.float64)
        order = np.argsort(np.abs(weights), kind="stable")
        weights[order[: round(sparsity * weights.size)]] = 0.0
        kept = weights != 0.0
        if kept.any():
            variance = float(np.mean(weights[kept] ** 2))
            curvature = np.full(int(kept.sum()), 1.0 / variance)
            max_levels = (1 << (bits or _WEIGHTS_BITS)) - 1
            levels = entropy_constrained(
                weights[kept], curvature, _WEIGHTS_SLOPE, max_levels, may_zero=False
            )
            middles = (levels.values[1:] + levels.values[:-1]) / 2
            weights[kept] = levels.values[np.searchsorted(middles, weights[kept])]
        compressed[name] = weights.astype(np.float32).reshape(array.shape)
    return compressed


def _start(graph: fx.GraphModule, calibration: Calibration, options: Options) -> Evolution:
    """Run the teacher once and refuse what cannot be searched."""
    try:
        evolution = Evolution(graph, calibration.inputs, options.seed, EFFORTS[options.effort])
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise SpqError(
            Reason.BAD_CALIBRATION,
            f"the network does not run on the calibration inputs ({reason}); "
            "check their number, shape and type",
        ) from error
    if not evolution.layers:
        raise SpqError(
            Reason.UNSUPPORTED_MODEL,
            "the network has no linear or convolutional layer to compress; leave out --calib",
        )
    return evolution


def _digest(evolution: Evolution, options: Options) -> str:
    """Return what tells this search from every other: options, weights and inputs."""
    digest = hashlib.sha256(json.dumps([_CHECKPOINT_FORMAT, asdict(options)]).encode())
    for name in sorted(evolution.teacher):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(evolution.teacher[name].numpy()).tobytes())
    for tensor in evolution.inputs:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _load_student(
    role: str, tensors: Mapping[str, NDArray[np.generic]], saved: list[object]
) -> Sparse:
    """Rebuild a student from a checkpoint."""
    groups: dict[str, dict[str, Tensor]] = {"tensor": {}, "keep": {}}
    for key, array in tensors.items():
        owner, kind, name = key.split("/", 2)
        if owner == role:
            groups[kind][name] = torch.from_numpy(array)
    tilt, price = saved
    assert isinstance(tilt, dict)
    assert isinstance(price, float)
    return Sparse(groups["tensor"], groups["keep"], tilt, price)


def _no_such_file(target_bytes: int) -> SpqError:
    return SpqError(
        Reason.GOAL_NOT_REACHED, f"no file of {target_bytes} bytes was found; allow a larger one"
    )


def _as_state(tensors: Mapping[str, Tensor]) -> State:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _tensor_bytes(state: Mapping[str, NDArray[np.generic]]) -> int:
    """Return the size of a file that holds these tensors and nothing else."""
    return spq.save(state, io.BytesIO())


@contextmanager
def _fixed_threads() -> Iterator[None]:
    """Run on a fixed number of threads: sums of floats depend on how they are split."""
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
