"""Tasks come and go without being decoded: the file is the one that `encode` makes of the rest."""

import errno
import fcntl
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import children
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import State, assert_same, changed, normal

import tvcodec
from tvcodec.errors import BaseModelMismatch, FormatError, TvqError, UnknownTaskError
from tvcodec.file import similarity
from tvcodec.file.archive import Archive
from tvcodec.file.container import Container
from tvcodec.file.durable import FileDraft
from tvcodec.file.locking import only_writer

TOP = Path(__file__).parent.parent
VECTORS = TOP / "spec" / "vectors"
BASE: State = {
    "a.weight": normal(0, 130, 70),
    "b.bias": normal(1, 300),
    "c.weight": normal(0, 130, 70),
    "d.steps": torch.tensor([1, 2]),
    "e.half": normal(3, 40, 30).half(),
}
RECIPES = {**tvcodec.QUALITIES, "exact": tvcodec.EXACT}


def tune(seed: int, **changes: torch.Tensor) -> State:
    state = {
        name: changed(seed, "noise", value) if value.is_floating_point() else value
        for name, value in BASE.items()
    }
    return {**state, **{name.replace("__", "."): value for name, value in changes.items()}}


TUNES = {
    "ant": tune(10),
    "bee": tune(20, d__steps=torch.tensor([1, 3]), f__added=normal(4, 9)),
    "cow": tune(30, a__weight=normal(5, 150, 70), c__weight=BASE["c.weight"]),
    "dog": dict(BASE),
}


def only(*names: str) -> dict[str, State]:
    return {name: TUNES[name] for name in names}


def encoded(path: Path, *names: str, quality: str = "balanced") -> bytes:
    tvcodec.encode(BASE, only(*names), path, recipe=RECIPES[quality], force=True)
    return path.read_bytes()


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "bank.tvq"
    encoded(path, "ant", "cow")
    return path


@pytest.mark.parametrize("quality", RECIPES)
@pytest.mark.parametrize("first", [["bee"], ["dog"], ["cow", "ant"]])
def test_adding_gives_what_encoding_all_gives(
    first: list[str], quality: str, tmp_path: Path
) -> None:
    path, recipe = tmp_path / "bank.tvq", RECIPES[quality]
    whole = encoded(tmp_path / "all.tvq", *TUNES, quality=quality)
    encoded(path, *first, quality=quality)
    *some, last = [name for name in reversed(TUNES) if name not in first]
    tvcodec.add(path, BASE, only(*some), recipe=recipe, jobs=3)
    summary = tvcodec.add(path, BASE, only(last), recipe=recipe)
    assert path.read_bytes() == whole
    fresh = tvcodec.encode(BASE, TUNES, tmp_path / "all.tvq", recipe=recipe, force=True)
    assert (summary.bytes, summary.root) == (fresh.bytes, fresh.root)
    (wanted,) = [task for task in fresh.tasks if task.name == last]
    (added,) = summary.tasks
    assert added.bits_per_parameter == pytest.approx(wanted.bits_per_parameter)
    assert added.times_smaller == pytest.approx(wanted.times_smaller)
    assert (added.name, added.bytes, added.notes) == (wanted.name, wanted.bytes, wanted.notes)


@pytest.mark.parametrize("goal", [tvcodec.Goal(max_error=0.3), tvcodec.Goal(size=12_000)])
def test_adding_takes_the_goals_that_encoding_takes(goal: tvcodec.Goal, tmp_path: Path) -> None:
    path, whole = tmp_path / "bank.tvq", tmp_path / "all.tvq"
    recipe = tvcodec.Recipe()
    tvcodec.encode(BASE, only("ant", "bee"), whole, recipe=recipe, goal=goal)
    tvcodec.encode(BASE, only("ant"), path, recipe=recipe, goal=goal)
    tvcodec.add(path, BASE, only("bee"), recipe=recipe, goal=goal)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("gone", [["ant"], ["dog"], ["cow", "bee"], ["dog", "cow", "bee"]])
def test_removing_gives_what_encoding_the_rest_gives(gone: list[str], tmp_path: Path) -> None:
    path = tmp_path / "bank.tvq"
    encoded(path, *TUNES)
    left = [name for name in TUNES if name not in gone]
    written = tvcodec.remove(path, gone)
    assert path.read_bytes() == encoded(tmp_path / "left.tvq", *left)
    assert (written.tasks, written.bytes) == (tuple(left), path.stat().st_size)
    assert os.listdir(tmp_path) == ["bank.tvq", "left.tvq"]


def test_a_task_can_be_replaced(bank: Path, tmp_path: Path) -> None:
    before = bank.read_bytes()
    with pytest.raises(TvqError, match="has a task 'ant'") as caught:
        tvcodec.add(bank, BASE, {"ant": tune(50), "bee": TUNES["bee"]})
    assert caught.value.hint == "--replace replaces it"
    assert bank.read_bytes() == before
    tvcodec.add(bank, BASE, {"ant": tune(50)}, replace=True)
    tvcodec.encode(BASE, {"ant": tune(50), "cow": TUNES["cow"]}, tmp_path / "all.tvq")
    assert bank.read_bytes() == (tmp_path / "all.tvq").read_bytes()


def test_an_open_file_stays_what_it_was(bank: Path) -> None:
    with tvcodec.open(bank) as old, tvcodec.open(bank) as fresh:
        before = dict(old.task_vector("ant"))
        tvcodec.add(bank, BASE, only("bee"))
        tvcodec.remove(bank, ["ant"])
        for reader in (old, fresh):
            assert reader.tasks == ("ant", "cow")
            reader.archive.verify()
            for name, tensor in reader.task_vector("ant").items():
                assert_same(tensor, before[name])
    with tvcodec.open(bank) as new:
        assert new.tasks == ("bee", "cow")


def test_the_output_can_be_another_file(bank: Path, tmp_path: Path) -> None:
    before, more, less = bank.read_bytes(), tmp_path / "more.tvq", tmp_path / "less.tvq"
    tvcodec.add(bank, BASE, only("bee"), output=more)
    tvcodec.remove(bank, ["ant"], output=less)
    assert bank.read_bytes() == before
    assert more.read_bytes() == encoded(tmp_path / "all.tvq", "ant", "bee", "cow")
    assert less.read_bytes() == encoded(tmp_path / "all.tvq", "cow")
    for change in (
        lambda force: tvcodec.add(bank, BASE, only("dog"), output=more, force=force),
        lambda force: tvcodec.remove(bank, ["cow"], output=more, force=force),
    ):
        with pytest.raises(TvqError, match=r"more\.tvq: exists already"):
            change(False)
        change(True)
    assert more.read_bytes() == encoded(tmp_path / "all.tvq", "ant")


def test_the_file_keeps_its_mode_and_a_link_to_it_stays_one(bank: Path, tmp_path: Path) -> None:
    bank.chmod(0o600)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "bank.tvq"
    link.symlink_to("../bank.tvq")
    tvcodec.add(link, BASE, only("bee"))
    tvcodec.remove(link, ["ant"])
    assert os.readlink(link) == "../bank.tvq"
    assert bank.stat().st_mode & 0o777 == 0o600
    assert bank.read_bytes() == encoded(tmp_path / "all.tvq", "bee", "cow")
    assert os.listdir(tmp_path / "links") == ["bank.tvq"]


def unlike(name: str) -> State:
    other = {key: value.clone() for key, value in BASE.items()}
    if name == "value":
        other["b.bias"][7] += 1e-6
    elif name == "fewer":
        del other["b.bias"]
    elif name == "dtype":
        other["b.bias"] = other["b.bias"].double()
    else:
        other["z.more"] = normal(9, 3)
    return other


@pytest.mark.parametrize("kind", ["value", "fewer", "dtype", "more"])
def test_another_base_model_is_refused(kind: str, bank: Path) -> None:
    before = bank.read_bytes()
    named = "z.more" if kind == "more" else "b.bias"
    with pytest.raises(BaseModelMismatch, match=named):
        tvcodec.add(bank, unlike(kind), only("bee"))
    assert bank.read_bytes() == before
    assert os.listdir(bank.parent) == ["bank.tvq"]


def test_what_cannot_be_done_leaves_the_file(bank: Path) -> None:
    before = bank.read_bytes()
    root = "00" * 32
    for error, message, change in [
        (UnknownTaskError, "no task 'bee'", lambda: tvcodec.remove(bank, ["ant", "bee"])),
        (TvqError, "expected a task to be left", lambda: tvcodec.remove(bank, ["cow", "ant"])),
        (TvqError, "only in case", lambda: tvcodec.add(bank, BASE, {"Cow": TUNES["cow"]})),
        (ValueError, "CON", lambda: tvcodec.add(bank, BASE, {"CON": TUNES["cow"]})),
        (ValueError, "at least one", lambda: tvcodec.add(bank, BASE, {})),
        (FormatError, root, lambda: tvcodec.remove(bank, ["ant"], expected_root=root)),
        (FormatError, root, lambda: tvcodec.add(bank, BASE, only("bee"), expected_root=root)),
        (FileNotFoundError, "none", lambda: tvcodec.remove(bank.with_name("none"), ["ant"])),
        (FileNotFoundError, "none", lambda: tvcodec.add(bank.with_name("none"), BASE, TUNES)),
    ]:
        with pytest.raises(error, match=message):
            change()
        assert bank.read_bytes() == before
        assert os.listdir(bank.parent) == ["bank.tvq"]


def test_damage_is_not_copied(bank: Path) -> None:
    data = bytearray(bank.read_bytes())
    data[100] ^= 1
    bank.write_bytes(data)
    for change in (
        lambda: tvcodec.remove(bank, ["cow"]),
        lambda: tvcodec.add(bank, BASE, only("bee")),
    ):
        with pytest.raises(FormatError, match="task 'ant': checksum mismatch"):
            change()
        assert bank.read_bytes() == data
    tvcodec.remove(bank, ["ant"])
    assert bank.read_bytes() == encoded(bank, "cow")


# Files of other writers: a shared basis, no sketches.


@pytest.fixture(params=["y_shared.tvq", "y_three_tasks.tvq", "y_all_parts.tvq", "y_metadata.tvq"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "bank.tvq"
    path.write_bytes((VECTORS / request.param).read_bytes())
    yield path
    with tvcodec.open(path) as bank:
        bank.archive.verify()


def decoded(path: Path, *tasks: str) -> dict[str, State]:
    with tvcodec.open(path) as bank:
        return {task: dict(bank.decode(task, base_of(path))) for task in tasks}


def base_of(path: Path) -> State:
    with tvcodec.open(path) as bank:
        every = load_file(VECTORS / "base.safetensors")
        return {parameter.name: every[parameter.name] for parameter in bank.archive.root.base_model}


def test_files_of_other_writers_can_be_edited(foreign: Path) -> None:
    base = base_of(foreign)
    with tvcodec.open(foreign) as bank:
        old, root = bank.tasks, bank.archive.root
        gram = bank.archive.gram()
    before = decoded(foreign, *old)
    new = {
        name: changed(60, "noise", value) if value.is_floating_point() else value
        for name, value in base.items()
    }
    tvcodec.add(foreign, base, {"zebra": new}, recipe=tvcodec.QUALITIES["high"])
    with tvcodec.open(foreign) as bank:
        assert bank.tasks == (*old, "zebra")
        assert (bank.archive.root.shared, bank.archive.root.metadata) == (
            root.shared,
            root.metadata,
        )
        if gram is not None:  # pairs keep what was said of them
            kept = bank.archive.gram()
            assert kept is not None
            assert [row[: len(old)] for row in kept[: len(old)]] == gram
        else:
            assert len(bank.similarity()) == len(old) + 1
    after = decoded(foreign, *old)
    for task, state in before.items():
        for name, tensor in state.items():
            assert_same(after[task][name], tensor)
    tvcodec.remove(foreign, ["zebra"])
    with tvcodec.open(foreign) as bank:
        assert bank.tasks == old
        assert bank.archive.root.shared == root.shared


@pytest.mark.parametrize("metadata", [{}, {"sketch": "AAAA"}, {"sketch": "a picture"}])
def test_what_has_no_sketch_is_estimated_from_what_it_decodes_to(
    metadata: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.tvq"
    with monkeypatch.context() as patch:  # another writer
        patch.setattr(similarity, "as_metadata", lambda sketch: metadata)
        encoded(path, "ant", "dog", quality="exact")
    tvcodec.add(path, BASE, {"twin": TUNES["ant"], "other": tune(70)}, recipe=tvcodec.EXACT)
    with tvcodec.open(path) as bank:
        rows = dict(zip(bank.tasks, bank.similarity(), strict=True))
        assert bank.archive.index("ant").metadata.get("sketch") == metadata.get("sketch")
    ant, dog, other, twin = rows["ant"]
    assert (ant, dog, twin) == (pytest.approx(1), 0, pytest.approx(1))
    assert abs(other) < 0.2


def test_removing_from_a_file_whose_similarity_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.tvq"
    with monkeypatch.context() as patch:
        patch.setattr(similarity, "as_metadata", lambda sketch: {})
        patch.setattr(similarity, "triangle", lambda *arguments: b"")
        encoded(path, "ant", "bee", "cow")
    tvcodec.remove(path, ["ant"])
    with tvcodec.open(path) as bank:
        assert bank.tasks == ("bee", "cow")
        assert bank.archive.gram() is None


# Several at a time, each a process of its own.

PROGRAM = """
import os, sys, time, torch, tvcodec
from test_editing import BASE, TUNES, tune
torch.set_num_threads(1)
path, jobs = sys.argv[1], int(sys.argv[2])
ready, go = os.pipe()
children = []
for job in range(jobs):
    child = os.fork()
    if not child:
        os.close(go)
        os.read(ready, 1)  # until all are there
        if job < jobs - 1:
            tvcodec.add(path, BASE, {f"task{job}": tune(100 + job)}, jobs=1)
        else:
            tvcodec.remove(path, ["ant"])
        os._exit(0)
    children.append(child)
os.close(go)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_whoever_changes_a_file_at_a_time_loses_nothing(bank: Path, tmp_path: Path) -> None:
    jobs = 9
    done = children.run(PROGRAM, bank, jobs)
    assert done.returncode == 0, done.stderr
    tunes = {"cow": TUNES["cow"], **{f"task{job}": tune(100 + job) for job in range(jobs - 1)}}
    tvcodec.encode(BASE, tunes, tmp_path / "all.tvq")
    assert bank.read_bytes() == (tmp_path / "all.tvq").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["all.tvq", "bank.tvq"]


def test_a_file_that_was_replaced_without_waiting_is_not_overwritten(
    bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(*arguments: object) -> bytes:
        encoded(bank.with_name("other.tvq"), "bee")
        os.replace(bank.with_name("other.tvq"), bank)
        return b""

    with monkeypatch.context() as patch:
        patch.setattr("tvcodec.file.assembly._triangle", replaced)
        with pytest.raises(TvqError, match="was replaced or changed by another program"):
            tvcodec.remove(bank, ["ant"])
    with tvcodec.open(bank) as opened:
        assert opened.tasks == ("bee",)
    assert os.listdir(bank.parent) == ["bank.tvq"]


def test_an_output_that_is_the_file_itself_waits_for_its_turn(bank: Path) -> None:
    link = bank.with_name("link.tvq")
    link.symlink_to(bank.name)
    first, second = (threading.Event() for _ in range(2))

    def change() -> None:
        first.set()
        tvcodec.remove(link, ["ant"], output=bank, force=True)
        second.set()

    with only_writer(bank):
        thread = threading.Thread(target=change)
        thread.start()
        first.wait()
        assert not second.wait(0.3)
        assert Archive(bank).tasks == ("ant", "cow")
    thread.join()
    assert Archive(bank).tasks == ("cow",)
    with pytest.raises(TvqError, match="exists already"):
        tvcodec.remove(bank, ["cow"], output=bank)


class Released(logging.Handler):
    """Lets go of a file when somebody says that he is waiting for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.said, self.seen = path, "", b""
        self._descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def emit(self, record: logging.LogRecord) -> None:
        self.said, self.seen = record.getMessage(), self.path.read_bytes()
        os.close(self._descriptor)


@pytest.mark.parametrize("change", ["remove", "encode", "tune"])
def test_whoever_waits_says_so(change: str, bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvcodec.file.locking.PATIENCE", 0.05)
    held, before = Released(bank), bank.read_bytes()
    logger = logging.getLogger("tvcodec")
    logger.addHandler(held)
    try:
        if change == "remove":
            tvcodec.remove(bank, ["cow"])
        elif change == "encode":
            encoded(bank, "ant")
        else:
            tvcodec.tune(
                BASE,
                only("ant"),
                lambda model, task: 1.0,
                path=bank,
                max_evaluations=1,
                force=True,
            )
    finally:
        logger.removeHandler(held)
    assert held.said == f"{bank}: waiting for another process that is changing it"
    assert held.seen == before
    assert Archive(bank).tasks == ("ant",)


def test_a_waiting_command_says_so_on_stderr(bank: Path) -> None:
    held = Released(bank)
    command = [sys.executable, "-m", "tvcodec", "remove", str(bank), "ant"]
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        line = running.stderr.readline()
        held.emit(logging.makeLogRecord({"msg": line}))
        rest = running.stderr.read()
    assert line == f"{bank}: waiting for another process that is changing it\n"
    assert rest.startswith(f"wrote {bank}: ")
    assert running.returncode == 0


def test_nobody_waits_where_files_cannot_be_locked(
    bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("tvcodec.file.locking.fcntl.flock", refused)
    with pytest.raises(TvqError, match="cannot be locked: no locks available"):
        tvcodec.remove(bank, ["cow"])
    encoded(bank, "bee")
    assert Archive(bank).tasks == ("bee",)


@pytest.mark.parametrize("output", [None, "other.tvq"])
def test_bytes_that_change_while_they_are_copied_are_not_published(
    output: str | None, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program writes into the file, which stays the same file, once its index is read."""
    other = encoded(bank.with_name("fresh.tvq"), "bee", "dog")
    pieces = Container.pieces

    def late(self: Container, *arguments: Any) -> Iterator[bytes]:
        with open(bank, "r+b") as file:
            file.write(other)
        return pieces(self, *arguments)

    monkeypatch.setattr(Container, "pieces", late)
    target = None if output is None else bank.with_name(output)
    with pytest.raises(FormatError, match="task 'cow': checksum mismatch"):
        tvcodec.remove(bank, ["ant"], output=target)
    assert sorted(os.listdir(bank.parent)) == ["bank.tvq", "fresh.tvq"]


def test_a_file_that_was_written_into_is_not_overwritten(
    bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(self: FileDraft) -> None:
        os.utime(bank, ns=(0, 0))
        refuse(self)

    refuse = FileDraft.refuse_target
    before = bank.read_bytes()
    monkeypatch.setattr(FileDraft, "refuse_target", written)
    with pytest.raises(TvqError, match="was replaced or changed by another program"):
        tvcodec.remove(bank, ["ant"])
    assert bank.read_bytes() == before
    assert os.listdir(bank.parent) == ["bank.tvq"]


def test_what_is_known_of_many_tasks_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.tvq"
    tvcodec.encode(BASE, {f"task{number}": TUNES["ant"] for number in range(9)}, path)
    read, gram = [], Archive.gram
    monkeypatch.setattr(Archive, "gram", lambda self: (read.append(self), gram(self))[1])
    tvcodec.remove(path, ["task4"])
    assert len(read) == 1


def test_an_output_is_none_of_the_inputs(tmp_path: Path) -> None:
    base = {"a": torch.zeros(40, 30)}
    for name, shift in (("base", 0.0), ("one", 1.0), ("two", 2.0)):
        save_file({"a": base["a"] + shift}, tmp_path / f"{name}.safetensors")
    bank, original = tmp_path / "bank.tvq", tmp_path / "base.safetensors"
    tvcodec.encode(original, {"one": tmp_path / "one.safetensors"}, bank)
    tunes = {"two": tmp_path / "two.safetensors"}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for output in (bank, original, tunes["two"]):
        with pytest.raises(tvcodec.TvqError, match="expected an output apart from all inputs"):
            tvcodec.add(bank, original, tunes, output=output, force=True)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
