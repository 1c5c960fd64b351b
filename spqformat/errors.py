"""The one exception family of SPQ and its closed list of reason codes."""

from enum import StrEnum

_LONGEST_LINE = 160


class Reason(StrEnum):
    """Why SPQ refused: a closed list (spec 10); programs may switch on it, releases only add."""

    # The file (spec 10.1)
    BAD_MAGIC = "bad_magic"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNSUPPORTED_FEATURE = "unsupported_feature"
    TRUNCATED = "truncated"
    TRAILING_BYTES = "trailing_bytes"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    BAD_HEADER = "bad_header"
    BAD_DIRECTORY = "bad_directory"
    BAD_METADATA = "bad_metadata"
    BAD_PROGRAM = "bad_program"
    BAD_TABLES = "bad_tables"
    BAD_STREAM = "bad_stream"
    LIMIT_EXCEEDED = "limit_exceeded"
    # The caller and the surroundings
    BAD_ARGUMENT = "bad_argument"
    KEY_NOT_FOUND = "key_not_found"
    NO_PROGRAM = "no_program"
    MODEL_MISMATCH = "model_mismatch"
    MISSING_EXTRA = "missing_extra"
    UNSAFE_CACHE = "unsafe_cache"
    # What `spq pack` is given
    BAD_MODEL = "bad_model"
    UNSAFE_MODEL = "unsafe_model"
    UNSUPPORTED_MODEL = "unsupported_model"
    BAD_CALIBRATION = "bad_calibration"
    BAD_CHECKPOINT = "bad_checkpoint"
    GOAL_NOT_REACHED = "goal_not_reached"
    SELF_CHECK_FAILED = "self_check_failed"


class SpqError(ValueError):
    """A refusal by SPQ: besides `OSError`, the only exception that leaves the library.

    Parameters
    ----------
    code : Reason
        Stable reason code.
    message : str
        One sentence that says what is wrong and what to do.
    offset : int, optional
        Byte offset in the file at which the fault was found.
    section : str, optional
        Part of the file: ``header``, ``directory``, ``metadata``, ``program`` or a tensor's name.
    """

    def __init__(
        self,
        code: Reason,
        message: str,
        *,
        offset: int | None = None,
        section: str | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.offset = offset
        self.section = section
        super().__init__(code, message)

    def __str__(self) -> str:
        place = "" if self.section is None else f" in {self.section!r}"
        place += "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.message} [{self.code}{place}]"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut where it is long; without one, its type.

    What other libraries say becomes part of a sentence of ours.
    """
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line[:_LONGEST_LINE]
