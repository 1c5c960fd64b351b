"""What errors of other libraries say, in one line of ours."""

_LONGEST = 160


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut where it is long; without one, its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:_LONGEST]
