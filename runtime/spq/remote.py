"""A file behind a URL, of which only the ranges asked for are fetched."""

import time
from collections.abc import Callable
from typing import TypeVar

from spq._extras import extra
from spqformat import Reason, SpqError
from spqformat.errors import first_line

_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.2
# What a server says about the request, and will say again.
_FINAL_STATUSES = frozenset(range(400, 500)) - {408, 429}
_NOT_FOUND = 404
_FINAL_ERRORS = (FileNotFoundError, PermissionError, NotImplementedError)

Value = TypeVar("Value")


class RemoteSource:
    """Random access by ranges through fsspec: HTTP(S), and whatever else is installed for it.

    Parameters
    ----------
    url : str
        Where the file is.

    Raises
    ------
    SpqError
        `missing_extra` without fsspec or what it needs for the URL, `bad_argument` for what it
        cannot read.
    OSError
        The file is not there, or the server does not say how long it is.
    """

    # Between a request's way there and back, and what is read in vain.
    block_bytes = 32 << 10

    def __init__(self, url: str) -> None:
        with extra("remote"):
            from fsspec.core import url_to_fs
        self._url = url
        try:
            self._files, self._path = url_to_fs(url)
        except OSError:
            raise
        except ImportError as error:
            raise SpqError(Reason.MISSING_EXTRA, f"{url}: {first_line(error)}") from error
        except Exception as error:  # file systems raise whatever they like at what is no URL
            raise SpqError(
                Reason.BAD_ARGUMENT, f"{url} cannot be read: {first_line(error)}"
            ) from error
        size = self._patiently(lambda: self._files.info(self._path)["size"])
        if size is None:
            raise OSError(f"{url}: the server does not say how long the file is")
        self.total_bytes = int(size)

    def read(self, offset: int, count: int) -> bytes:
        """Fetch the bytes from `offset` on.

        Raises
        ------
        OSError
            The range could not be fetched in several attempts.
        """
        end = min(offset + count, self.total_bytes)
        if end <= offset:
            return b""
        return self._patiently(lambda: self._fetch(offset, end))

    def close(self) -> None:
        """Nothing is held open between requests."""

    def _fetch(self, offset: int, end: int) -> bytes:
        data: bytes = self._files.cat_file(self._path, start=offset, end=end)
        if len(data) == end - offset:
            return data
        if len(data) == self.total_bytes:
            raise NotImplementedError("the server sends whole files instead of ranges")
        raise OSError(f"{len(data)} bytes came where {end - offset} were asked for")

    def _patiently(self, request: Callable[[], Value]) -> Value:
        """Try a request again unless its refusal is final."""
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return request()
            except Exception as error:  # file systems raise whatever their libraries raise
                cause = _cause(error)
                if attempt == _ATTEMPTS or _is_final(cause):
                    raise self._refusal(cause) from error
            time.sleep(pause)
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    def _refusal(self, error: BaseException) -> OSError:
        """Return what the caller is told."""
        kind: type[OSError] = OSError
        if isinstance(error, FileNotFoundError) or getattr(error, "status", 0) == _NOT_FOUND:
            kind = FileNotFoundError
        return kind(f"{self._url}: {first_line(error)}")


def _cause(error: BaseException) -> BaseException:
    """Return what is behind an error: fsspec says of any trouble that there is no file."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_final(error: BaseException) -> bool:
    return isinstance(error, _FINAL_ERRORS) or getattr(error, "status", 0) in _FINAL_STATUSES
