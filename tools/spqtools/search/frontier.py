"""The points that a search passes, each with its file, so that another one can be chosen later."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from spq._extras import extra
from spqformat import Reason, SpqError
from spqformat.atomic import write_atomically
from spqtools.inspection import Inspection
from spqtools.report import JSON_FORMAT


@dataclass(frozen=True)
class FrontierPoint:
    """One packed file and what it costs.

    Parameters
    ----------
    file : str
        The file, relative to the folder of the frontier.
    bytes : int
        Its size.
    ratio : float
        How many times smaller it is than the float32 bytes.
    zeros : int
        Number of zeros in all tensors.
    divergence : float
        From the original's outputs, on held-out calibration inputs.
    drop : float or None
        Points of accuracy lost on them; None without labels or class scores.
    """

    file: str
    bytes: int
    ratio: float
    zeros: int
    divergence: float
    drop: float | None

    def dominates(self, other: "FrontierPoint") -> bool:
        """Tell whether it is nowhere worse and somewhere better in size and divergence."""
        own, others = (self.bytes, self.divergence), (other.bytes, other.divergence)
        return own != others and own[0] <= others[0] and own[1] <= others[1]


class Frontier:
    """A JSON file that is whole after each point, with a folder of packed files beside it.

    Parameters
    ----------
    path : Path
        The ``.json`` to write; the folder and the ``.png`` have the same name otherwise.
    facts : mapping of str to str
        What tells this search from others; it stands in the JSON.
    resumes : bool
        Whether to go on from what an interrupted run has left.

    Raises
    ------
    SpqError
        `bad_argument` when the name has another ending, or the folder holds something and
        `resumes` is false; `missing_extra` without matplotlib; `bad_checkpoint` when there is
        nothing to go on from.
    """

    def __init__(self, path: Path, facts: Mapping[str, str], *, resumes: bool) -> None:
        if path.suffix != ".json":
            raise SpqError(Reason.BAD_ARGUMENT, f"{path} is to hold JSON; give it a name in .json")
        with extra("plot"):
            from spqtools.search.plot import frontier_png
        self._draw = frontier_png
        self._path = path
        self._folder = path.with_suffix("")
        self._facts = dict(facts)
        self._points: list[FrontierPoint] = []
        self._chosen: str | None = None
        holds_files = self._folder.exists() and any(self._folder.iterdir())
        # A search that was interrupted early has left no point to go on from.
        if resumes and (path.exists() or holds_files):
            self._points = _read_points(path, self._facts)
        elif holds_files:
            raise SpqError(
                Reason.BAD_ARGUMENT,
                f"{self._folder} holds files already; move them away, or name another .json",
            )

    def add(
        self, packed: bytes, inspection: Inspection, divergence: float, drop: float | None
    ) -> FrontierPoint:
        """Write a packed file and its point, unless they are there already.

        Parameters
        ----------
        packed : bytes
            The file.
        inspection : Inspection
            What is in it.
        divergence, drop : float, float or None
            See `FrontierPoint`.

        Returns
        -------
        FrontierPoint
            The point.
        """
        ratio, zeros = inspection.ratio, inspection.zeros
        for point in self._points:
            if (point.bytes, point.zeros, point.divergence) == (len(packed), zeros, divergence):
                return point
        file = f"{self._folder.name}/{len(self._points):02d}.spq"
        self._folder.mkdir(exist_ok=True)
        write_atomically(self._path.parent / file, [packed])
        point = FrontierPoint(file, len(packed), ratio, zeros, divergence, drop)
        self._points.append(point)
        self._write()
        return point

    def choose(
        self, packed: bytes, inspection: Inspection, divergence: float, drop: float | None
    ) -> None:
        """Add the file that became the output, mark it, and draw the plot."""
        chosen = self.add(packed, inspection, divergence, drop)
        self._chosen = chosen.file
        self._write()
        stream = io.BytesIO()
        places: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for point in sorted(self._points, key=lambda point: point.ratio):
            places[self._is_dominated(point)].append((point.ratio, point.divergence))
        self._draw(stream, places[False], places[True], (chosen.ratio, chosen.divergence))
        write_atomically(self._path.with_suffix(".png"), [stream.getvalue()])

    def _is_dominated(self, point: FrontierPoint) -> bool:
        return any(other.dominates(point) for other in self._points)

    def _write(self) -> None:
        """Write the JSON, points by ratio."""
        content = {
            "format": JSON_FORMAT,
            **self._facts,
            "chosen": self._chosen,
            "points": [
                {**asdict(point), "dominated": self._is_dominated(point)}
                for point in sorted(self._points, key=lambda point: point.ratio)
            ],
        }
        text = json.dumps(content, indent=2, allow_nan=False)
        write_atomically(self._path, [f"{text}\n".encode("ascii")])


def _read_points(path: Path, facts: Mapping[str, str]) -> list[FrontierPoint]:
    """Read the points of an interrupted run in the order in which they were found."""
    try:
        content = json.loads(path.read_bytes())
        belongs = all(content[name] == value for name, value in facts.items())
        rows = sorted(content["points"], key=lambda row: (len(row["file"]), row["file"]))
        points = [
            FrontierPoint(**{name: value for name, value in row.items() if name != "dominated"})
            for row in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SpqError(
            Reason.BAD_CHECKPOINT,
            f"{path} is missing or damaged, and the points found before are in it; "
            "leave out --resume",
        ) from error
    if not belongs:
        raise SpqError(Reason.BAD_CHECKPOINT, f"{path} belongs to another search; name another")
    return points
