"""What libraries raise about a remote object -> a line and a hint, without its secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvcodec.errors import TvqError
from tvcodec.file.location import redacted, shown

INSTALL = "pip install 'tvcodec[remote]'"
AGAIN = "try again later, or copy the file first: tvcodec copy"
REFUSED = frozenset({401, 403, 407})
GONE = frozenset({404, 410})
# What Python, aiohttp, botocore and httpx call it; none of them is imported for it.
TIMEOUTS = frozenset(
    {"TimeoutError", "ReadTimeoutError", "ConnectTimeoutError", "TimeoutException"}
)
UNREACHABLE = frozenset(
    {"ConnectionError", "ClientConnectionError", "gaierror", "HTTPClientError", "NetworkError"}
)


class NoRanges(TvqError):
    """The server gives whole files only."""

    def __init__(self, url: str) -> None:
        message = f"{shown(url)}: expected a server that gives byte ranges, got one that does not"
        super().__init__(message, "copy the file first: tvcodec copy URL bank.tvq")


class BadStatus(Exception):
    """A server's answer that is none."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


def changed(url: str) -> TvqError:
    """The object is no longer the one that was opened."""
    return TvqError(f"{shown(url)}: changed while it was read", hint="open it again")


@contextmanager
def telling(url: str) -> Iterator[None]:
    """Makes whatever is raised a TvqError that names the object; whose cause is not kept, since it
    may quote secrets."""
    try:
        yield
    except TvqError:
        raise
    except Exception as error:
        raise _told(error, url) from None


def _told(error: Exception, url: str) -> TvqError:
    causes = list(_causes(error))
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    status = next((cause.status for cause in causes if isinstance(cause, BadStatus)), None)
    if "PreconditionFailed" in map(_s3_code, causes):
        return changed(url)
    text = redacted((str(error).splitlines() or [""])[0], url) or type(error).__name__
    message, hint = _words(kinds, status, text)
    return TvqError(f"{shown(url)}: {message}", redacted(hint, url))


def _words(kinds: set[str], status: int | None, text: str) -> tuple[str, str]:
    if "ImportError" in kinds:
        ours = any(name in text for name in ("fsspec", "s3fs", "aiohttp"))
        return f"a package is missing: {text}", INSTALL if ours else "install that package"
    if "ValueError" in kinds and "rotocol" in text:
        return f"nothing opens URLs of this kind: {text}", "copy the file to a local disk first"
    if "NotImplementedError" in kinds:
        return "cannot be written to", "copy to where files can be put, such as s3://BUCKET/NAME"
    if kinds & {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"}:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true if public"
        return "no credentials were found", hint
    if status in REFUSED or "PermissionError" in kinds:
        reason = f"HTTP status {status}" if status else text
        return f"access is refused: {reason}", "has the link expired? are the credentials right?"
    if status in GONE or "FileNotFoundError" in kinds:
        reason = "" if status or "://" in text else f" ({text})"
        return f"there is no such file{reason}", "is the address spelled right?"
    if kinds & TIMEOUTS:
        return "no answer in time", AGAIN
    if kinds & UNREACHABLE:
        return f"cannot be reached: {text}", "is the host spelled right? is there a network?"
    if status is not None:
        return f"the server answers with HTTP status {status}", AGAIN
    return f"cannot be read or written: {text}", AGAIN


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _s3_code(error: BaseException) -> object:
    response = getattr(error, "response", None)
    told = response.get("Error") if isinstance(response, dict) else None
    return told.get("Code") if isinstance(told, dict) else None
