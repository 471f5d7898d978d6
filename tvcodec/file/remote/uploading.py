"""An object that appears at a URL whole or not at all, where the store can do that."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from tvcodec.errors import TvqError
from tvcodec.file.location import shown
from tvcodec.file.remote.problems import telling


def upload(url: str, pieces: Iterable[bytes], *, force: bool) -> None:
    """Writes pieces to a new object, in several parts if it is large. If anything is raised, by
    `pieces` too, the parts are dropped. TvqError where there is an object and `force` is not set,
    or none can be written."""
    with telling(url):
        from fsspec.core import url_to_fs

        if url.startswith(("http://", "https://")):
            raise NotImplementedError
        fs, path = url_to_fs(url, skip_instance_cache=True)
        if not force and fs.exists(path):
            raise TvqError(f"{shown(url)}: exists already", hint="--force overwrites it")
        handle = fs.open(path, "wb", autocommit=False)
    try:
        for piece in pieces:
            with telling(url):
                handle.write(piece)
        with telling(url):
            handle.close()
            handle.commit()
    except BaseException:
        with suppress(AttributeError):  # or else it is closed, which publishes it, when collected
            handle.closed = True
        with suppress(Exception):
            handle.discard()
        raise
