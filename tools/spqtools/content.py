"""What a packed file holds, and the file that comes of it."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

import spq
from spq import onnx_graph
from spqformat import Reason, SpqError, __version__
from spqtools.evolve.divergence import GIVEN_FITNESS, KL_DIVERGENCE, SQUARED_ERROR
from spqtools.memory import bits_of, memory_of
from spqtools.reading.ingest import Source
from spqtools.reading.programs import Programs, write_programs
from spqtools.reading.teacher import Teacher
from spqtools.search.goal import Options

State = Mapping[str, NDArray[Any] | Tensor]
Found = Mapping[str, NDArray[Any]]

_UNITS = {KL_DIVERGENCE: "nats", SQUARED_ERROR: "of variance", GIVEN_FITNESS: "by --fitness"}
# The beginning of a SHA-256 that tells files apart as surely as the whole.
_DIGEST_DIGITS = 32


class Content:
    """What a packed file holds: a network, and in the place of its weights what was found.

    Parameters
    ----------
    source : Source
        What was read.
    tensors : mapping of str to ndarray or Tensor
        All its tensors.
    programs : Programs
        Its programs.
    teacher : Teacher or None
        Gives what the search finds the names of the source back.
    options : Options
        What the metadata tell of the search.
    """

    def __init__(
        self,
        source: Source,
        tensors: State,
        programs: Programs,
        teacher: Teacher | None,
        options: Options,
    ) -> None:
        self._source, self._options = source, options
        self._tensors, self._programs = tensors, programs
        self._teacher = teacher

    def stored(self, found: Found) -> State:
        """Return all tensors of the file."""
        restored = found if self._teacher is None else self._teacher.restore(found)
        return _merge(self._tensors, restored)

    def encode(self, found: Found, divergence: float | None, kind: str) -> bytes:
        """Return the file."""
        stream = io.BytesIO()
        metadata = self.provenance(divergence, kind)
        spq.save(
            self.stored(found),
            stream,
            metadata=metadata,
            programs=self._programs.stored,
            fast_load=self._options.fast_load,
        )
        return stream.getvalue()

    def file_bytes(self, found: Found, divergence: float | None, kind: str) -> int:
        """Return the length of the file."""
        return len(self.encode(found, divergence, kind))

    def provenance(self, divergence: float | None, kind: str) -> dict[str, str]:
        """Return the metadata: where the file comes from and how, no time and no place in it."""
        usual = asdict(Options())
        given = {
            name: value for name, value in self._options.described().items() if value != usual[name]
        }
        metadata = {
            "spq.tool": f"spq {__version__}",
            "spq.options": json.dumps(given, sort_keys=True, separators=(",", ":")),
            "spq.teacher": self._source.digest[:_DIGEST_DIGITS],
        }
        if divergence is not None:
            metadata["spq.divergence"] = f"{divergence:.4g} {_UNITS[kind]}"
        return metadata

    @property
    def float_bytes(self) -> int:
        """What the tensors take as float32, tied ones counted once."""
        sizes = {memory_of(name, one): prod(one.shape) for name, one in self._tensors.items()}
        return 4 * sum(sizes.values())

    @property
    def is_searched(self) -> bool:
        """Whether there is a network that a search can watch."""
        return self._teacher is not None


def check_exact(packed: bytes, tensors: State) -> None:
    """Decode a file and compare it with what was to be stored, bit for bit.

    Parameters
    ----------
    packed : bytes
        The file.
    tensors : mapping of str to ndarray or Tensor
        What it has to hold.

    Raises
    ------
    SpqError
        `self_check_failed`.
    """
    with spq.open(packed) as archive:
        archive.verify()
        decoded = archive.tensors()
        decoded |= {tied: decoded[name] for tied, name in archive.aliases.items()}
    same = decoded.keys() == tensors.keys() and all(
        decoded[name].shape == tuple(value.shape) and decoded[name].tobytes() == bits_of(value)
        for name, value in tensors.items()
    )
    if not same:
        raise SpqError(
            Reason.SELF_CHECK_FAILED,
            "the file would not give back what was to be stored; please report this",
        )


def read_parts(
    source: Source, traced: ExportedProgram | None, *, stores_program: bool
) -> tuple[State, Programs]:
    """Return the original tensors and the programs that the file is to hold."""
    if source.onnx_model is not None:
        try:
            graph, weights = onnx_graph.strip(source.onnx_model)
        except SpqError:
            raise
        except Exception as error:  # onnx raises whatever its parts raise on damaged tensors
            raise SpqError(
                Reason.BAD_MODEL, "the .onnx has a tensor that is damaged; export it again"
            ) from error
        return weights, Programs({"onnx": graph} if stores_program else {})
    arrays = _as_arrays(source.tensors)
    if traced is None or not stores_program:
        return arrays, Programs()
    programs = write_programs(traced, arrays)
    return {**arrays, **_as_arrays(programs.constants)}, programs


def _as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any] | Tensor]:
    """Return tensors as arrays over the same memory; bfloat16, which NumPy lacks, as it is."""
    return {
        name: tensor if tensor.dtype is torch.bfloat16 else tensor.numpy()
        for name, tensor in tensors.items()
    }


def _merge(tensors: State, found: Found) -> State:
    """Put what the search found in the place of the originals; tied tensors stay tied.

    A network may know a tied tensor by one of its names only, or by each of them.
    """
    groups: dict[object, list[str]] = {}
    for name, value in tensors.items():
        groups.setdefault(memory_of(name, value), []).append(name)
    merged = dict(tensors)
    for names in groups.values():
        values = [found[name] for name in names if name in found]
        if all(bits_of(value) == bits_of(values[0]) for value in values[1:]):
            merged |= dict.fromkeys(names, values[0]) if values else {}
        else:
            merged |= {name: found.get(name, values[0]) for name in names}
    return merged
