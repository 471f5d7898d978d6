"""What is a URL, and how it is called where others may read along."""

from __future__ import annotations

import os
import re

from tvcodec.errors import TvqError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:_-]+://")  # two letters or more: C:// is a drive
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+")
_PASSWORD = re.compile(r"//([^/?#]+)@")
_QUERY = re.compile(r"[?#](.+)", re.DOTALL)


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether it names something that fsspec opens, and no local path."""
    return isinstance(path, str) and _URL.match(path) is not None


def shown(path: str | os.PathLike[str]) -> str:
    """The path, or a URL without what may be secret in it: user, password, query."""
    text = os.fspath(path)
    return _QUERY.sub("?***", _PASSWORD.sub("//***@", text)) if is_url(text) else text


def redacted(text: str, url: str) -> str:
    """Somebody else's message about `url`, without what is secret in that or in any other URL."""
    text = _IN_TEXT.sub(lambda found: shown(found[0]), text)
    for secret in (*_PASSWORD.findall(url), *_QUERY.findall(url)):
        text = text.replace(secret, "***")
    return text


def refuse_edit(path: str | os.PathLike[str]) -> None:
    """TvqError for a URL: no remote file is changed in place."""
    hint = "copy it first (tvcodec copy), or write to another file with -o"
    refuse_url(path, "a local file, which is replaced in one step", hint)


def refuse_url(path: str | os.PathLike[str], expected: str, hint: str) -> None:
    """TvqError for a URL where only a local path will do."""
    if is_url(path):
        raise TvqError(f"{shown(path)}: expected {expected}, got a URL", hint)
