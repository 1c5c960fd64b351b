"""Runs an ONNX graph, from an .onnx or out of an .spq, in ONNX Runtime."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import spq
from spqformat import Reason, SpqError
from spqformat.errors import first_line
from spqformat.ids import MAGIC
from spqtools.onnx_runtime import MisfitError, open_session, run, run_all

# What trainers of detectors leave in the metadata: {0: 'person', 1: "driver's cab"}.
_NAME = re.compile(r"(\d{1,6}): ?(?:'([^']*)'|\"([^\"]*)\")", re.ASCII)


class Network:
    """A network that is ready to run.

    Parameters
    ----------
    path : Path
        An ``.onnx``, or an ``.spq`` with an ONNX program; the contents decide which it is.

    Raises
    ------
    SpqError
        Every reason of `spq.session`; `bad_model` for what is neither; `missing_extra` without ONNX
        Runtime.
    OSError
        The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            is_packed = stream.read(len(MAGIC)) == MAGIC
        self._session = spq.session(path) if is_packed else self._open()

    @property
    def inputs(self) -> list[Any]:
        """Name, type and shape of each input."""
        return list(self._session.get_inputs())

    @property
    def class_names(self) -> dict[int, str]:
        """Names of classes that the file has in its metadata under ``names``."""
        names = self._session.get_modelmeta().custom_metadata_map.get("names", "")
        return {int(number): one or other for number, one, other in _NAME.findall(names)}

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> list[NDArray[Any]]:
        """Run the network.

        Parameters
        ----------
        feeds : mapping of str to array
            The inputs by name.

        Returns
        -------
        list of array
            All outputs.

        Raises
        ------
        SpqError
            `bad_argument` when ONNX Runtime does not take the inputs, or the network answers with
            something that is not a number.
        """
        return self._answers(partial(run, self._session, dict(feeds)))

    def run_all(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the network on some samples, whatever its batches; errors are those of `run`.

        Parameters
        ----------
        inputs : sequence of array
            One for each input, in their order, first dimension the samples.

        Returns
        -------
        list of array
            All outputs.
        """
        return self._answers(partial(run_all, self._session, inputs))

    def _answers(self, ask: Callable[[], list[NDArray[Any]]]) -> list[NDArray[Any]]:
        try:
            outputs = ask()
        except MisfitError as error:
            raise self.refuse(str(error)) from error
        except Exception as error:  # ONNX Runtime raises types of its own
            raise self.refuse(
                f"does not run on this data ({first_line(error)}); "
                "check its shape and type, and --preprocess for images"
            ) from error
        if any(output.dtype.kind == "f" and np.isnan(output).any() for output in outputs):
            raise self.refuse("answers with values that are not numbers; pack it anew")
        return outputs

    def refuse(self, message: str) -> SpqError:
        """Return the refusal of something about the network, which the sentence begins with."""
        return SpqError(Reason.BAD_ARGUMENT, f"{self._path} {message}")

    def _open(self) -> Any:
        """Let ONNX Runtime read an .onnx."""
        try:
            return open_session(self._path)
        except Exception as error:  # ONNX Runtime raises types of its own
            raise SpqError(
                Reason.BAD_MODEL,
                f"{self._path} is neither .spq nor an .onnx that ONNX Runtime can run: "
                f"{first_line(error)}",
            ) from error
