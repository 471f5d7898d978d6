"""An output appears whole or not at all, and costs nothing that was there before."""

import errno
import fcntl
import os

import pytest

from tvcodec.errors import TvqError
from tvcodec.file import exchange
from tvcodec.file.container import Container, Writer
from tvcodec.file.durable import durable_directory, durable_file, scratch_directory

ROOT = b"the root index"


def write(path, **options):
    with Writer(path, **options) as writer:
        writer.put(b"section")
        writer.close(ROOT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bank.tvq"


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_writer_leaves_nothing(path, problem):
    def work():
        with Writer(path) as writer:
            writer.put(b"data")
            assert len(os.listdir(path.parent)) == 1
            raise problem

    with pytest.raises(problem):
        work()
    assert os.listdir(path.parent) == []


def test_a_writer_that_is_not_closed_publishes_nothing(path):
    with Writer(path) as writer:
        writer.put(b"data")
    assert os.listdir(path.parent) == []


def test_nothing_but_the_file_is_left(path):
    write(path)
    write(path, force=True)
    assert os.listdir(path.parent) == ["bank.tvq"]
    assert path.stat().st_nlink == 1


def test_an_existing_file_is_kept_without_force(path):
    path.write_bytes(b"precious")
    with pytest.raises(TvqError, match="exists already") as caught:
        Writer(path)
    assert "--force" in caught.value.hint
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == ["bank.tvq"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with Writer(path) as writer:
        path.write_bytes(b"precious")
        with pytest.raises(TvqError, match="exists already"):
            writer.close(ROOT)
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == ["bank.tvq"]


def test_a_file_that_appears_at_the_last_moment_is_kept(path, monkeypatch):
    link = os.link

    def late(source, target):
        path.write_bytes(b"precious")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(TvqError, match="exists already"):
        write(path)
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == ["bank.tvq"]


def no_links(source, target):
    raise OSError(errno.EPERM, "no hard links here")


def test_file_systems_without_hard_links(path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    write(path)
    assert Container(path).root == ROOT
    assert os.listdir(path.parent) == ["bank.tvq"]


def test_a_claimed_name_is_given_up_when_the_disk_fails(path, monkeypatch):
    def failing(source, target):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="broken"):
        write(path)
    assert os.listdir(path.parent) == []


def test_a_second_name_that_stays_does_not_hide_that_the_file_is_written(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda name: no_links(name, name))
        write(path)
    assert Container(path).root == ROOT


def test_a_check_comes_after_all_is_on_disk_and_keeps_the_old_file(path, monkeypatch):
    path.write_bytes(b"precious")
    fsync, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(number), fsync(number)))

    def check():
        assert synced
        raise TvqError("was replaced")

    with Writer(path, force=True) as writer, pytest.raises(TvqError, match="was replaced"):
        writer.close(ROOT, check)
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == ["bank.tvq"]


@pytest.mark.parametrize("force", [False, True])
def test_symlinks_directories_and_pipes_are_not_replaced(tmp_path, force):
    (tmp_path / "aim").write_bytes(b"precious")
    (tmp_path / "link.tvq").symlink_to("aim")
    (tmp_path / "dangling.tvq").symlink_to("nowhere")
    (tmp_path / "directory.tvq").mkdir()
    os.mkfifo(tmp_path / "pipe.tvq")
    before = sorted(os.listdir(tmp_path))
    for name, kind in [
        ("link.tvq", "a symbolic link"),
        ("dangling.tvq", "a symbolic link"),
        ("directory.tvq", "a directory"),
        ("pipe.tvq", "a device, pipe or socket"),
    ]:
        with pytest.raises(TvqError, match=f"expected a file or nothing there, got {kind}"):
            Writer(tmp_path / name, force=force)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "aim").read_bytes() == b"precious"


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        Writer(tmp_path / "none" / "bank.tvq")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_follows_the_umask(path, umask, mode):
    before = os.umask(umask)
    try:
        write(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_stale_temporaries_are_removed_and_no_others(path):
    def plant(name, age):
        planted = path.with_name(name)
        planted.write_bytes(b"left over")
        past = planted.stat().st_mtime - age
        os.utime(planted, (past, past))
        return planted

    stale = plant(".bank.tvq-0123abcd.tmp", 4000)
    fresh = plant(".bank.tvq-0123abce.tmp", 3000)
    locked = plant(".bank.tvq-0123abcf.tmp", 4000)
    foreign = plant(".bank.tvq-notours!.tmp", 4000)
    another = plant(".other.tvq-0123abcd.tmp", 4000)
    link = path.with_name(".bank.tvq-0123abc0.tmp")
    link.symlink_to(another)
    with open(locked, "rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write(path)
    left = {file.name for file in path.parent.iterdir()}
    assert left == {file.name for file in (path, fresh, locked, foreign, another, link)}
    assert stale.name not in left


def test_a_writer_holds_the_lock_on_its_temporary(path):
    with Writer(path) as writer:
        (name,) = os.listdir(path.parent)
        assert name.startswith(".bank.tvq-")
        assert name.endswith(".tmp")
        with open(path.with_name(name), "rb") as handle, pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        writer.close(ROOT)


@pytest.mark.parametrize("force", [False, True])
def test_everything_is_on_disk_before_and_after_the_rename(path, monkeypatch, force):
    events = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def synced(descriptor):
        events.append(("fsync", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("named"), replace(*names)))
    monkeypatch.setattr(os, "link", lambda *names: (events.append("named"), link(*names)))
    write(path, force=force)
    assert [event if isinstance(event, str) else event[0] for event in events] == [
        "fsync",
        "named",
        "fsync",
    ]
    assert events[0][1:] == (path.stat().st_ino, path.stat().st_size)
    assert events[2][1] == path.parent.stat().st_ino


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_failing_disk_leaves_the_old_file(path, monkeypatch, call):
    path.write_bytes(b"precious")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="no space left"):
        write(path, force=True)
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == ["bank.tvq"]


def test_durable_file(tmp_path):
    target = tmp_path / "model.safetensors"
    with durable_file(target) as handle:
        handle.write(b"weights")
        assert not target.exists()
    assert target.read_bytes() == b"weights"

    def fail():
        with durable_file(target, force=True) as handle:
            handle.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_bytes() == b"weights"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_durable_file_for_a_library_that_renames_its_own(tmp_path):
    target = tmp_path / "model.safetensors"
    with durable_file(target) as handle:
        own = tmp_path / "own"
        own.write_bytes(b"weights")
        own.chmod(0o600)
        own.rename(handle.name)
        handle.close()
    assert target.read_bytes() == b"weights"
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


def fill(directory, text):
    (directory / "model.safetensors").write_text(text)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text("{}")


def test_durable_directory(tmp_path):
    target = tmp_path / "restored"
    with durable_directory(target) as directory:
        fill(directory, "one")
        assert not target.exists()
    assert (target / "1_Pooling" / "config.json").read_text() == "{}"
    with pytest.raises(TvqError, match="exists already"), durable_directory(target):
        pass
    with durable_directory(target, True, nothing) as directory:
        (directory / "model.safetensors").write_text("two")
    assert [file.name for file in target.iterdir()] == ["model.safetensors"]
    assert (target / "model.safetensors").read_text() == "two"
    assert os.listdir(tmp_path) == ["restored"]


def nothing(directory):
    """Whatever is there may be replaced."""
    return ()


def test_a_failed_directory_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "restored"
    with durable_directory(target) as directory:
        fill(directory, "one")

    def interrupt():
        with durable_directory(target, True, nothing) as directory:
            fill(directory, "two")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    rename = os.rename

    def failing(source, name):
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, "broken")
        rename(source, name)

    monkeypatch.setattr(exchange, "exchange", cannot_exchange)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="broken"), durable_directory(target, True, nothing) as draft:
        fill(draft, "three")
    assert (target / "model.safetensors").read_text() == "one"
    assert os.listdir(tmp_path) == ["restored"]


def cannot_exchange(one, other):
    return False


@pytest.mark.parametrize("steps", [1, 2])
def test_a_directory_is_replaced_in_one_step_or_in_two(tmp_path, monkeypatch, steps):
    target = tmp_path / "restored"
    with durable_directory(target) as directory:
        fill(directory, "one")
    rename, renamed = os.rename, []
    monkeypatch.setattr(os, "rename", lambda *names: (renamed.append(names), rename(*names)))
    if steps == 2:
        monkeypatch.setattr(exchange, "exchange", cannot_exchange)
    with durable_directory(target, True, nothing) as directory:
        (directory / "model.safetensors").write_text("two")
    assert len(renamed) == (0 if steps == 1 else 2)
    assert [file.name for file in target.iterdir()] == ["model.safetensors"]
    assert (target / "model.safetensors").read_text() == "two"
    assert os.listdir(tmp_path) == ["restored"]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("there", [False, True])
def test_a_directory_that_may_not_outlive_a_power_cut_is_taken_back(
    tmp_path, monkeypatch, steps, there
):
    """Its name could not be made durable, and the old directory is still there to be kept."""
    target = tmp_path / "restored"
    if there:
        with durable_directory(target) as directory:
            fill(directory, "one")
    if steps == 2:
        monkeypatch.setattr(exchange, "exchange", cannot_exchange)
    fsync, parent = os.fsync, os.stat(tmp_path)

    def failing(descriptor):
        if os.path.samestat(os.fstat(descriptor), parent):
            raise OSError(errno.EIO, "broken")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="broken"), durable_directory(target, True, nothing) as draft:
        fill(draft, "two")
    assert os.listdir(tmp_path) == ["restored"] * there
    assert not there or (target / "model.safetensors").read_text() == "one"


def test_an_old_directory_that_cannot_be_taken_back_is_not_removed(tmp_path, monkeypatch):
    target, swap, done = tmp_path / "restored", exchange.exchange, []
    with durable_directory(target) as directory:
        fill(directory, "one")
    parent = os.stat(tmp_path)

    def once(one, other):
        done.append(one)
        return len(done) == 1 and swap(one, other)

    def failing(descriptor):
        if os.path.samestat(os.fstat(descriptor), parent):
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(exchange, "exchange", once)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="broken"), durable_directory(target, True, nothing) as draft:
        fill(draft, "two")
    assert len(done) == 2
    assert (target / "model.safetensors").read_text() == "two"
    assert (done[0] / "model.safetensors").read_text() == "one"


def test_a_directory_that_a_crash_left_aside_is_put_back(tmp_path):
    target, aside = tmp_path / "restored", tmp_path / ".restored-01234567.old"
    aside.mkdir()
    (aside / "model.safetensors").write_text("one")
    with pytest.raises(TvqError, match="exists already"), durable_directory(target):
        pass
    assert (target / "model.safetensors").read_text() == "one"
    aside.mkdir()
    with durable_directory(target, True, nothing) as directory:
        fill(directory, "two")
    assert (target / "model.safetensors").read_text() == "two"
    assert os.listdir(tmp_path) == ["restored"]


def test_a_directory_that_stands_aside_of_a_writer_is_left_alone(tmp_path):
    target, aside = tmp_path / "restored", tmp_path / ".restored-01234567.old"
    draft = aside.with_suffix(".tmp")
    aside.mkdir()
    draft.mkdir()
    descriptor = os.open(draft, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with durable_directory(target) as directory:
        fill(directory, "two")
    os.close(descriptor)
    assert sorted(os.listdir(tmp_path)) == sorted([target.name, aside.name, draft.name])


def test_force_does_not_cost_a_directory_that_holds_no_checkpoint(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "diary.txt").write_text("precious")
    with (
        pytest.raises(TvqError, match=r"--force would delete diary\.txt"),
        durable_directory(home, force=True),
    ):
        pass
    (tmp_path / "file").write_text("precious")
    with pytest.raises(TvqError, match="got a file"), durable_directory(tmp_path / "file", True):
        pass
    assert (home / "diary.txt").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["file", "home"]


def test_stale_directories_are_removed(tmp_path):
    stale = tmp_path / ".restored-01234567.tmp"
    stale.mkdir()
    (stale / "half").write_text("")
    os.utime(stale, (0, 0))
    with durable_directory(tmp_path / "restored"):
        pass
    assert os.listdir(tmp_path) == ["restored"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_replaced_file_keeps_its_mode(path, mode):
    path.write_bytes(b"old")
    path.chmod(mode)
    write(path, force=True)
    assert path.stat().st_mode & 0o777 == mode
    assert Container(path).root == ROOT


def test_scratch_directory(path):
    with scratch_directory(path) as scratch:
        assert scratch.parent == path.parent
        (scratch / "new.tvq").write_bytes(b"draft")
        os.utime(scratch, (0, 0))
        write(path)  # cleans up, but not what is in use
        assert (scratch / "new.tvq").exists()
    assert os.listdir(path.parent) == ["bank.tvq"]

    def fail():
        with scratch_directory(path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(path.parent) == ["bank.tvq"]
    left = path.with_name(".bank.tvq-01234567.tmp")  # by a process that was killed
    left.mkdir()
    (left / "new.tvq").write_bytes(b"draft")
    os.utime(left, (0, 0))
    with scratch_directory(path):
        assert not left.exists()
    with pytest.raises(FileNotFoundError, match="none"), scratch_directory(path.parent / "none/x"):
        pass
