"""Replaces a function of the packer for a while, and notices when nothing calls it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def replaced(module: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let a function, or a class, stand in for one that a module calls by name.

    A name that has moved elsewhere would be replaced without any effect, and a row without an
    ingredient would be one with it.

    Raises
    ------
    RuntimeError
        If nothing has called it.
    """
    calls = 0

    def stand_in(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return function(*arguments, **options)

    with patch.object(module, name, stand_in):
        yield
    if not calls:
        raise RuntimeError(f"nothing calls {module.__name__}.{name}, which was replaced")
