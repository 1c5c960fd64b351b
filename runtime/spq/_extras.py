"""Says which optional dependency is missing, instead of an import error."""

from collections.abc import Iterator
from contextlib import contextmanager

from spqformat import Reason, SpqError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a failed import into `missing_extra` with the command that installs it."""
    try:
        yield
    except ImportError as error:
        raise SpqError(
            Reason.MISSING_EXTRA,
            f"{error.name} is not installed; run: pip install 'spqformat[{name}]'",
        ) from error
