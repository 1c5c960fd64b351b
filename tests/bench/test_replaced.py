"""A stand-in that nothing calls makes a benchmark fail."""

from types import SimpleNamespace

import pytest

from tests.bench.replaced import replaced


def test_a_stand_in_is_called_and_gone_again() -> None:
    module = SimpleNamespace(__name__="module", twice=lambda number: 2 * number)
    with replaced(module, "twice", lambda number: 3 * number):
        assert module.twice(5) == 15
    assert module.twice(5) == 10


def test_a_stand_in_that_nothing_calls_is_noticed() -> None:
    module = SimpleNamespace(__name__="module", twice=lambda number: 2 * number)
    with (
        pytest.raises(RuntimeError, match=r"nothing calls module\.twice"),
        replaced(module, "twice", abs),
    ):
        pass
