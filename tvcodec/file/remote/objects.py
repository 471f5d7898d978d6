"""One object that fsspec opens: its size, what tells it from another one at the same place, and its
byte ranges."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from tvcodec.errors import TvqError
from tvcodec.file.location import shown
from tvcodec.file.remote.problems import BadStatus, NoRanges, changed, telling
from tvcodec.file.remote.ranges import Range

CONNECT_SECONDS, READ_SECONDS = 30, 60  # without a byte, over HTTP
HEAD = 64  # bytes asked for, over HTTP, to learn the rest
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class RemoteObject:
    """Of any kind; whether it is still the same is asked after each read. `head` is what is known
    of its first bytes."""

    head = b""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        with telling(url):
            self.fs, self.path = _file_system(url, **options)
            self.size: int = self._find()

    def _find(self) -> int:
        """Its size; also notes what tells it from another one."""
        size = _size(self.fs.info(self.path), self.url)
        self._key = self.fs.ukey(self.path)
        return size

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range, all of the object that was opened."""
        with telling(self.url):
            pieces = self._read(ranges)
        for (start, end), piece in zip(ranges, pieces, strict=True):
            if len(piece) != end - start:
                raise changed(self.url)
        return pieces

    def _read(self, ranges: Sequence[Range]) -> list[bytes]:
        options = {"cache_type": "none"} if "hf" in _protocols(self.fs) else {}
        pieces = self._ranges(ranges, **options)
        self.fs.invalidate_cache(self.path)
        if self.fs.ukey(self.path) != self._key:
            raise changed(self.url)
        return pieces

    def _ranges(self, ranges: Sequence[Range], **options: Any) -> list[bytes]:
        starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
        paths = [self.path] * len(ranges)
        found = self.fs.cat_ranges(paths, starts, ends, on_error="return", **options)
        for each in found:
            if isinstance(each, Exception):
                raise each
        return list(found)

    def close(self) -> None:
        """Ends connections, if any are kept."""


class S3Object(RemoteObject):
    """Of an S3-compatible store, which is told with each read which ETag the object has to have; of
    one that gives none, size and time of change are asked for after each read."""

    def _find(self) -> int:
        info = self.fs.info(self.path)
        size = _size(info, self.url)
        self._tagged = bool(info.get("ETag"))
        if self._tagged:
            self.fs.s3_additional_kwargs["IfMatch"] = info["ETag"]
        else:
            self._key = self.fs.ukey(self.path)
        return size

    def _read(self, ranges: Sequence[Range]) -> list[bytes]:
        return self._ranges(ranges) if self._tagged else super()._read(ranges)


class HttpObject(RemoteObject):
    """Of a web server, of which each answer is looked at before its body is read."""

    def __init__(self, url: str) -> None:
        self._identity: tuple[str, int] | None = None
        client = _client(self._look_at)
        super().__init__(url, client_kwargs={**client, "response_class": _bounded(url)})

    def _find(self) -> int:
        self.head = self.fs.cat_file(self.path, start=0, end=HEAD)
        assert self._identity is not None
        return self._identity[1]

    def _read(self, ranges: Sequence[Range]) -> list[bytes]:
        return self._ranges(ranges)

    async def _look_at(self, answer: Any) -> None:
        """Raises unless the answer is a byte range of the object that was opened."""
        if answer.status == 416:  # a file of no bytes, or now a shorter one
            raise changed(self.url) if self._identity else _empty(self.url)
        if answer.status >= 400:
            raise BadStatus(answer.status)
        told = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status != 206 or told is None:
            raise NoRanges(self.url)
        first, last, size = map(int, told.groups())
        asked = answer.request_info.headers["Range"].removeprefix("bytes=").split("-")
        wanted = int(asked[0]), min(int(asked[1]), size - 1)
        # No more than that is read: not an endless body, nor one that unpacks into more.
        fits = answer.content_length in (None, last - first + 1)
        if (first, last) != wanted or not fits or "Content-Encoding" in answer.headers:
            raise NoRanges(self.url)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        identity = tag, size
        if self._identity not in (None, identity):
            raise changed(self.url)
        self._identity = identity

    def close(self) -> None:
        _close(self.fs)


def opened(url: str) -> RemoteObject:
    """The object at a URL; TvqError where there is none that can be read."""
    scheme = url.partition("://")[0]
    if scheme in ("http", "https"):
        return HttpObject(url)
    return (S3Object if scheme in ("s3", "s3a") else RemoteObject)(url)


def download(url: str, target: BinaryIO, progress: Callable[[int], None]) -> None:
    """Writes the whole object to `target` as it comes, of a web server that knows no ranges."""
    with telling(url):
        from fsspec.callbacks import Callback

        done = 0

        def report(size: int, value: int, **_: object) -> None:
            nonlocal done
            progress(value - done)
            done = value

        fs, path = _file_system(url, client_kwargs=_client(_refuse_bad))
        try:
            fs.get_file(path, target, callback=Callback(hooks={"progress": report}))
        finally:
            _close(fs)


async def _refuse_bad(answer: Any) -> None:
    if answer.status >= 400:
        raise BadStatus(answer.status)


def _file_system(url: str, **options: Any) -> tuple[Any, str]:
    """A file system of our own, which remembers nothing of others, and the path there."""
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(url, skip_instance_cache=True, **options)
    return fs, path


def _client(look_at: Callable[[Any], Any]) -> dict[str, Any]:
    """Settings of aiohttp: `look_at` is given each answer before its body is read."""
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    headers = {"Accept-Encoding": "identity"}  # ranges are those of the file as it is
    return {
        "timeout": timeout,
        "headers": headers,
        "trust_env": True,
        "raise_for_status": look_at,
    }


def _bounded(url: str) -> Any:
    """A kind of answer whose body, which may come in chunks and without a length, is read no
    further than the range goes that its head tells of; NoRanges where it goes elsewhere."""
    from aiohttp import ClientResponse

    class Bounded(ClientResponse):
        async def read(self) -> bytes:
            told = _CONTENT_RANGE.fullmatch(self.headers["Content-Range"])
            length = int(told[2]) - int(told[1]) + 1 if told else 0
            body = bytearray()
            async for piece in self.content.iter_any():
                body += piece
                if len(body) > length:
                    break
            if len(body) != length:
                raise NoRanges(url)
            return bytes(body)

    return Bounded


def _close(fs: Any) -> None:
    if fs._session is not None:
        fs.close_session(fs.loop, fs._session)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _size(info: dict[str, Any], url: str) -> int:
    if info.get("type") == "directory":
        raise TvqError(f"{shown(url)}: expected a .tvq file, got a directory")
    if not isinstance(info.get("size"), int):
        raise NoRanges(url)
    return int(info["size"])


def _empty(url: str) -> TvqError:
    return TvqError(f"{shown(url)}: expected a .tvq file, got an empty file")
