"""What can go wrong, by what the caller does next.

    TvqError                    anything below
    ├── FormatError             damaged, or not a .tvq: fetch the file again
    ├── UnsupportedError        a sound file from a newer version: upgrade the reader
    ├── CheckpointError         these checkpoints do not belong together, or cannot be read
    ├── BaseModelMismatch       the base model is not the one the file was encoded against
    └── UnknownTaskError        the file has no task of that name (also a LookupError)

Wrong Python types stay TypeError, failed I/O stays OSError.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TvqError(Exception):
    """A message that says where, what was expected and what was found; `hint` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[type["TvqError"], tuple[str, str | None]]:
        return type(self), (str(self), self.hint)


class FormatError(TvqError):
    """The bytes are not those of a whole and sound .tvq file."""


class UnsupportedError(TvqError):
    """The file needs a newer reader."""


class CheckpointError(TvqError):
    """The checkpoints do not belong together, or one of them cannot be used."""


class BaseModelMismatch(TvqError):
    """The base model differs from the one that the file was encoded against."""


class UnknownTaskError(TvqError, LookupError):
    """The file holds no task of that name."""


@contextmanager
def naming(path: str | os.PathLike[str], temporary: Path | None = None) -> Iterator[None]:
    """Makes an OSError that names no file, as those of reads and writes do not, one of `path`; so
    too one that names the `temporary` in its place."""
    try:
        yield
    except OSError as error:
        if error.filename is None or (temporary and error.filename == str(temporary)):
            error.filename = os.fspath(path)
        raise
