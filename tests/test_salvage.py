"""What is intact of a damaged file can be saved; nothing else ever is."""

import errno
import os
import struct
from pathlib import Path

import pytest
from small_models import State, changed, normal

import tvcodec
from tvcodec.errors import FormatError, TvqError, UnsupportedError
from tvcodec.file import salvaging
from tvcodec.file.archive import Archive
from tvcodec.file.index import ROOT_START, root_at
from tvcodec.file.source import FileSource

VECTORS = Path(__file__).parent.parent / "spec" / "vectors"
SOUND = sorted(VECTORS.glob("y_*.tvq"))
BASE: State = {
    "a.weight": normal(0, 90, 60),
    "b.bias": normal(1, 20),
    "c.weight": normal(2, 70, 70),
}
TASKS = ("ant", "bee", "cow")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "bank.tvq"
    tunes = {
        task: {name: changed(10 * n + 10, "noise", value) for name, value in BASE.items()}
        for n, task in enumerate(TASKS)
    }
    tvcodec.encode(BASE, tunes, path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "damaged.tvq", tmp_path / "saved.tvq"


def groups(path: Path) -> dict[str, bytes]:
    archive = Archive(path)
    return {task: b"".join(archive.raw_group(task)) for task in archive.tasks}


def place(path: Path, task: str, parameter: str) -> int:
    """In the middle of a section."""
    archive = Archive(path)
    for section, offset in archive.sections(task):
        if parameter in archive.describe(section):
            return offset + section.length // 2
    raise KeyError(parameter)


def test_a_damaged_task_is_lost_and_all_others_are_saved(
    sound: Path, files: tuple[Path, Path]
) -> None:
    damaged, saved = files
    data = bytearray(sound.read_bytes())
    data[place(sound, "bee", "c.weight")] ^= 4
    damaged.write_bytes(data)
    result = tvcodec.salvage(damaged, saved)
    assert result.lost == {"bee": "task 'bee', parameter 'c.weight': checksum mismatch"}
    assert result.notes == ()
    assert result.written.tasks == ("ant", "cow")
    expected = damaged.with_name("expected.tvq")
    tvcodec.remove(sound, ["bee"], output=expected)
    assert saved.read_bytes() == expected.read_bytes()
    assert damaged.read_bytes() == data


def test_one_flipped_bit_anywhere(sound: Path, files: tuple[Path, Path]) -> None:
    """Each file that is written holds tasks as they were; at most one is lost to one bit."""
    damaged, saved = files
    original, whole = sound.read_bytes(), groups(sound)
    end = len(original)
    root = Archive(sound).container.root_offset
    sampled = range(0, root, 97)
    outcomes = set()
    for at in (*range(0, 80, 5), *sampled, *range(root, end - 72, 11), *range(end - 72, end, 3)):
        data = bytearray(original)
        data[at] ^= 1 << at % 8
        damaged.write_bytes(data)
        try:
            result = tvcodec.salvage(damaged, saved, force=True)
        except (FormatError, UnsupportedError):
            assert at >= root  # the rest is nothing without its index
            assert at < end - 72
            outcomes.add("nothing")
            continue
        kept = groups(saved)
        assert len(result.lost) <= 1
        assert result.lost or result.notes
        assert len(kept) == len(TASKS) - len(result.lost)
        assert set(kept.values()) <= set(whole.values())
        if at < 64:
            assert result.notes == ("prologue: damaged",)
        if at < root:
            assert set(kept) == set(TASKS) - set(result.lost)
        outcomes.add("some" if result.lost else "all")
    assert outcomes == {"nothing", "some", "all"}


@pytest.mark.parametrize("cut", [1, 8, 40, 71, 72])
def test_a_cut_trailer_is_made_anew(cut: int, sound: Path, files: tuple[Path, Path]) -> None:
    damaged, saved = files
    damaged.write_bytes(sound.read_bytes()[:-cut])
    result = tvcodec.salvage(damaged, saved)
    assert result.lost == {}
    assert result.notes == (
        "root index and trailer do not agree: what the root index says is unchecked",
    )
    assert saved.read_bytes() == sound.read_bytes()


@pytest.mark.parametrize("more", [b"x", bytes(8), b"<html>" * 50])
def test_what_was_appended_is_left_out(more: bytes, sound: Path, files: tuple[Path, Path]) -> None:
    damaged, saved = files
    damaged.write_bytes(sound.read_bytes() + more)
    assert tvcodec.salvage(damaged, saved).notes == (f"file: {len(more)} bytes behind its end",)
    assert saved.read_bytes() == sound.read_bytes()


def test_a_file_in_another_one_is_not_taken_for_it(sound: Path, files: tuple[Path, Path]) -> None:
    """What looks like a root index has to lie where it says that it lies."""
    damaged, saved = files
    data = sound.read_bytes()
    damaged.write_bytes(data + data)
    assert tvcodec.salvage(damaged, saved).written.tasks == TASKS
    assert saved.read_bytes() == data
    damaged.write_bytes(bytes(8) + data)
    with pytest.raises(FormatError, match="its root index is damaged or missing"):
        tvcodec.salvage(damaged, saved, force=True)


@pytest.mark.parametrize("lost", ["ant", "similarity", "tail"])
def test_what_the_disk_cannot_read_costs_no_more_than_that(
    lost: str, sound: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged, saved = files
    data = sound.read_bytes()
    damaged.write_bytes(data + bytes(9000) * (lost == "tail"))
    archive, read_at = Archive(sound), FileSource.read_at
    places = {"ant": 100, "similarity": archive.root.gram_offset, "tail": len(data) + 8500}

    def failing(self: FileSource, offset: int, length: int) -> bytes:
        if self._path == os.fspath(damaged) and offset <= places[lost] < offset + length:
            raise OSError(errno.EIO, "Input/output error", self._path)
        return read_at(self, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(FileSource, "read_at", failing)
        result = tvcodec.salvage(damaged, saved)
    assert result.lost == ({"ant": "task 'ant': Input/output error"} if lost == "ant" else {})
    assert Archive(saved).tasks == tuple(task for task in TASKS if task != lost)
    if lost == "similarity":
        (note,) = result.notes
        assert note.startswith("similarity of tasks: Input/output error; estimated anew")
    Archive(saved).verify()


@pytest.mark.parametrize("what", ["empty maps", "long texts", "nested"])
def test_what_looks_like_many_root_indexes_is_looked_at_for_a_while_only(
    what: str, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes looked at, not candidates times what lies behind them."""
    damaged, saved = files
    fake = (
        b"\x86"
        + ROOT_START
        + {"empty maps": b"\x80\0\0\0", "nested": b"\xdd\xff\xff\xff"}.get(what, b"\xc6\0\0\xff")
    )
    damaged.write_bytes(bytes(64) + (fake + bytes(-len(fake) % 8)) * 40000)
    spent = []

    def counted(data: memoryview, where: str, offset: int) -> tuple[bytes | None, int]:
        found, looked_at = root_at(data, where, offset)
        spent.append(looked_at)
        return found, looked_at

    monkeypatch.setattr(salvaging, "root_at", counted)
    monkeypatch.setattr(salvaging, "EFFORT", 1 << 20)
    with pytest.raises(FormatError, match="its root index is damaged or missing"):
        tvcodec.salvage(damaged, saved)
    assert len(spent) > 2
    assert sum(spent) - spent[-1] <= 1 << 20


def test_nothing_can_be_saved_without_a_root_index(sound: Path, files: tuple[Path, Path]) -> None:
    damaged, saved = files
    data = sound.read_bytes()
    root = Archive(sound).container.root_offset
    for left in (b"", data[:50], data[: len(data) // 2], data[: root + 100], b"PK\x03\x04" * 50):
        damaged.write_bytes(left)
        with pytest.raises(FormatError, match="its root index is damaged or missing") as caught:
            tvcodec.salvage(damaged, saved)
        assert caught.value.hint
        assert "fetch the file again" in caught.value.hint
        assert os.listdir(damaged.parent) == ["damaged.tvq"]


def test_no_file_is_written_where_no_task_is_intact(sound: Path, files: tuple[Path, Path]) -> None:
    damaged, saved = files
    data = bytearray(sound.read_bytes())
    for task in TASKS:
        data[place(sound, task, "a.weight")] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(FormatError, match=r"no task is intact: task 'ant', parameter 'a\.weight'"):
        tvcodec.salvage(damaged, saved)
    assert os.listdir(damaged.parent) == ["damaged.tvq"]


def test_damaged_similarities_are_estimated_anew(sound: Path, files: tuple[Path, Path]) -> None:
    damaged, saved = files
    data = bytearray(sound.read_bytes())
    data[Archive(sound).root.gram_offset + 5] ^= 1
    damaged.write_bytes(data)
    result = tvcodec.salvage(damaged, saved)
    (note,) = result.notes
    assert note.startswith("similarity of tasks: checksum mismatch; estimated anew")
    assert saved.read_bytes() == sound.read_bytes()


def test_other_files_are_not_overwritten(sound: Path, files: tuple[Path, Path]) -> None:
    damaged, saved = files
    damaged.write_bytes(sound.read_bytes())
    saved.write_bytes(b"precious")
    with pytest.raises(TvqError, match="exists already"):
        tvcodec.salvage(damaged, saved)
    assert saved.read_bytes() == b"precious"
    saved.unlink()
    saved.symlink_to("damaged.tvq")
    with pytest.raises(TvqError, match="is the damaged file"):
        tvcodec.salvage(damaged, saved, force=True)
    with pytest.raises(FileNotFoundError):
        tvcodec.salvage(damaged.with_name("none.tvq"), damaged.with_name("new.tvq"))
    assert sorted(os.listdir(damaged.parent)) == ["damaged.tvq", "saved.tvq"]


def test_a_newer_version_is_not_mended(sound: Path, files: tuple[Path, Path]) -> None:
    damaged, saved = files
    data = bytearray(sound.read_bytes())
    struct.pack_into("<H", data, 8, 2)
    damaged.write_bytes(data[:-1])  # its trailer cannot say whether the 2 is damage
    with pytest.raises(UnsupportedError, match="expected format version 1, got 2"):
        tvcodec.salvage(damaged, saved)
    damaged.write_bytes(data)  # it can
    assert tvcodec.salvage(damaged, saved).notes == ("prologue: damaged",)
    assert saved.read_bytes() == sound.read_bytes()


@pytest.mark.parametrize("path", SOUND, ids=lambda path: path.name)
def test_a_sound_file_is_saved_as_it_is(path: Path, files: tuple[Path, Path]) -> None:
    _, saved = files
    if not Archive(path).tasks:
        with pytest.raises(FormatError, match="no task is intact"):
            tvcodec.salvage(path, saved)
        return
    result = tvcodec.salvage(path, saved)
    assert (result.lost, result.notes) == ({}, ())
    assert groups(saved) == groups(path)
    new, old = Archive(saved), Archive(path)
    new.verify()
    assert (new.root.shared, new.root.metadata) == (old.root.shared, old.root.metadata)
    if old.gram() is not None:
        assert new.gram() == old.gram() or len(old.tasks) == 1


def test_tasks_that_use_a_damaged_basis_are_lost(files: tuple[Path, Path]) -> None:
    damaged, saved = files
    path = VECTORS / "y_shared.tvq"
    archive = Archive(path)
    using = {
        task
        for task in archive.tasks
        if any(part.kind == 7 for entry in archive.index(task).entries for part in entry.parts)
    }
    assert set() < using < set(archive.tasks)
    data = bytearray(path.read_bytes())
    data[64] ^= 1
    damaged.write_bytes(data)
    result = tvcodec.salvage(damaged, saved)
    assert set(result.lost) == using
    (note,) = result.notes
    assert note.startswith("shared basis, parameter 'a': checksum mismatch; tasks that use it")
    assert Archive(saved).root.shared is None
