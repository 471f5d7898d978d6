"""What a program does to files, as a log; and every state that a power cut may leave of it.

The log is taken below Python's functions for files (audit events, writes of raw files, fsync), and
is checked: replayed as a whole it must give the very files that are on the disk. Of what was not
fsynced a cut leaves nothing, all, half or zeros; of names, any first part of what happened in each
directory since its fsync, or all but one step of it.
"""

from __future__ import annotations

import builtins
import copy
import io
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvcodec.file import exchange

Tree = dict[str, bytes | None]  # paths below the root; None is a directory
FATES = ("nothing", "half", "zeros", "all")


@dataclass(frozen=True)
class Step:
    """One operation; `paths` are relative to the root, `file` is an inode."""

    kind: str
    paths: tuple[str, ...] = ()
    file: int = 0
    data: bytes = b""


class Recorder:
    """Logs what this process does below `root`, for good: use it in a process that is about to end.
    `before` is called with the number of each step before it is made."""

    def __init__(self, root: Path, before: Callable[[int], None] = lambda number: None) -> None:
        self.root, self.before = os.fspath(root), before
        self.steps: list[Step] = []
        sys.addaudithook(self._audit)
        opened = builtins.open
        fsync, swap = os.fsync, exchange.exchange

        def traced_open(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            writes = set(mode) & set("wxa+")
            if not writes or isinstance(file, int) or self._inside(file) is None:
                return opened(file, mode, *rest, **options)
            raw = _Raw(file, mode.replace("b", "").replace("t", ""), self)
            buffered = io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, encoding=options.get("encoding"))

        def traced_fsync(descriptor: int) -> None:
            status = os.fstat(descriptor)
            if (path := self._inside(os.readlink(f"/proc/self/fd/{descriptor}"))) is not None:
                folder = stat.S_ISDIR(status.st_mode)
                self.add(Step("sync directory" if folder else "sync", (path,), status.st_ino))
            fsync(descriptor)

        def traced_exchange(one: Path, other: Path) -> bool:
            self.add(Step("exchange", self._paths(one, other)))
            return swap(one, other)

        def no_sendfile(*_: Any) -> int:
            raise OSError(88, "not a socket")  # shutil then copies by read and write

        builtins.open = io.open = traced_open
        Path.open = traced_open  # type: ignore[assignment, method-assign]
        os.fsync = traced_fsync  # type: ignore[assignment]
        os.sendfile = no_sendfile  # type: ignore[assignment]
        exchange.exchange = traced_exchange

    def add(self, step: Step) -> None:
        self.before(len(self.steps))
        self.steps.append(step)

    def _inside(self, path: Any, folder: int = -1) -> str | None:
        """The path relative to the root; None if it is elsewhere."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        name = os.fsdecode(path)
        if folder is not None and folder >= 0:
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        if name == self.root:
            return ""
        return name[len(self.root) + 1 :] if name.startswith(self.root + "/") else None

    def _paths(self, *paths: Any) -> tuple[str, ...]:
        return tuple(inside for path in paths if (inside := self._inside(path)) is not None)

    def _audit(self, event: str, values: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.link"):
            source, target = self._inside(values[0], values[2]), self._inside(values[1], values[3])
            if source is not None and target is not None:
                self.add(Step(event, (source, target)))
        elif event in ("os.remove", "os.rmdir"):
            if (path := self._inside(values[0], values[1])) is not None:
                self.add(Step(event, (path,)))
        elif event == "os.mkdir" and (path := self._inside(values[0], values[2])) is not None:
            self.add(Step(event, (path,)))


class _Raw(io.FileIO):
    """A raw file that logs its creation and its writes."""

    def __init__(self, file: Any, mode: str, log: Recorder) -> None:
        self._log = log
        path = log._inside(file)
        assert path is not None
        log.before(len(log.steps))
        super().__init__(file, mode)
        log.steps.append(Step("create", (path,), os.fstat(self.fileno()).st_ino))

    def write(self, data: Any) -> int:
        self._log.add(Step("write", file=os.fstat(self.fileno()).st_ino, data=bytes(data)))
        return super().write(data)


@dataclass
class Disk:
    """What a disk holds: names of files, and their bytes; and what it may still lose."""

    names: dict[str, int | None] = field(default_factory=dict)  # None: a directory
    data: dict[int, bytes] = field(default_factory=dict)
    unsynced: dict[int, list[bytes]] = field(default_factory=dict)
    pending: list[Step] = field(default_factory=list)  # steps in directories since their fsync

    @classmethod
    def of(cls, tree: Tree) -> Disk:
        """One that has this, durably."""
        disk = cls()
        for number, (path, data) in enumerate(tree.items()):
            disk.names[path] = None if data is None else -1 - number
            if data is not None:
                disk.data[-1 - number] = data
        return disk

    def take(self, step: Step) -> None:
        """Makes one step."""
        match step.kind:
            case "write":
                self.unsynced.setdefault(step.file, []).append(step.data)
            case "sync":
                written = self.unsynced.pop(step.file, [])
                self.data[step.file] = self.data.get(step.file, b"") + b"".join(written)
            case "sync directory":
                folder = step.paths[0]
                mine = [one for one in self.pending if folder in _folders(one)]
                for one in mine:
                    rename(self.names, one)
                self.pending = [one for one in self.pending if folder not in _folders(one)]
            case "acknowledged":
                pass
            case _:
                self.pending.append(step)

    def cuts(self) -> Iterator[Tree]:
        """All that a cut at this moment may leave."""
        for names in self._namings():
            for fate in FATES if self.unsynced else FATES[:1]:
                yield {
                    path: None if file is None else self.content(file, fate)
                    for path, file in names.items()
                }

    def content(self, file: int, fate: str) -> bytes:
        kept = self.data.get(file, b"")
        lost = b"".join(self.unsynced.get(file, []))
        return (
            kept
            + {
                "nothing": b"",
                "half": lost[: len(lost) // 2],
                "zeros": bytes(len(lost)),
                "all": lost,
            }[fate]
        )

    def _namings(self) -> Iterator[dict[str, int | None]]:
        folders = sorted({folder for step in self.pending for folder in _folders(step)})
        own = {f: [step for step in self.pending if f in _folders(step)] for f in folders}
        for counts in itertools.product(*(range(len(own[f]) + 1) for f in folders)):
            made = [step for f, n in zip(folders, counts, strict=True) for step in own[f][:n]]
            yield self._after([step for step in self.pending if step in made])
        for lost in range(len(self.pending)):
            yield self._after(self.pending[:lost] + self.pending[lost + 1 :])

    def _after(self, steps: list[Step]) -> dict[str, int | None]:
        names = copy.copy(self.names)
        for step in steps:
            rename(names, step)
        return names

    def whole(self) -> Tree:
        """What is there as long as the power is on."""
        names = self._after(self.pending)
        return {p: None if f is None else self.content(f, "all") for p, f in names.items()}


def rename(names: dict[str, int | None], step: Step) -> None:
    """Makes a step of names where it is possible."""
    path, *other = step.paths
    match step.kind:
        case "create":
            names[path] = step.file
        case "os.mkdir":
            names.setdefault(path, None)
        case "os.remove" | "os.rmdir":
            names.pop(path, None)
        case "os.link" if path in names and other[0] not in names:
            names[other[0]] = names[path]
        case "os.rename" if path in names:
            _move(names, path, other[0])
        case "exchange" if path in names and other[0] in names:
            _move(names, path, ":")
            _move(names, other[0], path)
            _move(names, ":", other[0])


def _move(names: dict[str, int | None], source: str, target: str) -> None:
    for path in [path for path in names if path == target or path.startswith(target + "/")]:
        del names[path]
    for path in [path for path in names if path == source or path.startswith(source + "/")]:
        names[target + path[len(source) :]] = names.pop(path)


def _folders(step: Step) -> set[str]:
    return {os.path.dirname(path) for path in step.paths}


def tree_of(root: Path) -> Tree:
    """What lies below a directory."""
    return {
        path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }
