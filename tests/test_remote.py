"""Archives at URLs: how little is read, what is noticed, what is said; servers are real ones."""

import gzip
import hashlib
import importlib
import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result
from moto.server import ThreadedMotoServer
from safetensors.torch import load_file, save_file
from small_models import State, assert_same, changed, normal

import tvcodec
from tvcodec.cli import main
from tvcodec.file import remote
from tvcodec.file.archive import Archive
from tvcodec.file.copying import copy
from tvcodec.file.location import is_url, redacted, shown
from tvcodec.file.remote import NoRanges
from tvcodec.file.remote.ranges import Ranges, joined, split

SHAPES = {"a.weight": (300, 200), "b.weight": (200, 150), "c.bias": (50,)}
BASE: State = {name: normal(n, *shape) for n, (name, shape) in enumerate(SHAPES.items())}
TUNES = {
    name: {key: changed(seed, "noise", value) for key, value in BASE.items()}
    for name, seed in (("ant", 10), ("bee", 20), ("cow", 30), ("dog", 40))
}
SMALL = 80 << 10  # bytes around those of a task: the file's end, its start, an index


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bank") / "bank.tvq"
    tvcodec.encode(BASE, TUNES, path, recipe=tvcodec.EXACT)
    assert path.stat().st_size > 10 * SMALL
    return path.read_bytes()


@pytest.fixture
def bank(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "bank.tvq"
    path.write_bytes(data)
    return path


@dataclass
class Web:
    """A web server of a few files, and what was asked of it: (range, status, bytes of body)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str | None, int, int]] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    modified: str = ""
    chunked: bool = False
    cut: int = 0  # bytes at the end of each range
    extra: bytes = b""  # behind each range, and counted in its length
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        return sum(length for _, _, length in self.asked)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    told = Web(files={"/bank.tvq": data})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked, name = self.headers.get("Range"), self.path.partition("?")[0]
            status, body, headers = 404, b"", {}
            if name.strip("/").isdigit():
                status = int(name.strip("/"))
            elif name == "/moved":
                status, headers = 302, {"Location": "/bank.tvq"}
            elif name in told.files:
                status, body, headers = self.found(told.files[name], asked)
            told.asked.append((asked, status, len(body)))
            self.send_response(status)
            length = {"Content-Length": str(len(body))}
            if told.chunked:
                length = {"Transfer-Encoding": "chunked"}
                pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
                body = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (*pieces, b""))
            for key, value in {**headers, **length}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def found(self, whole: bytes, asked: str | None) -> tuple[int, bytes, dict[str, str]]:
            headers = {"ETag": f'"{hashlib.md5(whole).hexdigest()}"'} if told.etags else {}
            if told.modified:
                headers["Last-Modified"] = told.modified
            if asked is None or not told.ranges:
                return 200, whole, headers
            start, last = map(int, asked.removeprefix("bytes=").split("-"))
            if start >= len(whole):
                return 416, b"", {"Content-Range": f"bytes */{len(whole)}"}
            body = whole[start : last + 1]
            place = f"bytes {start}-{start + len(body) - 1}/{len(whole)}"
            return (
                206,
                body[: len(body) - told.cut] + told.extra,
                {**headers, "Content-Range": place, **told.headers},
            )

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # of a client that wants no more
                super().handle_error(request, client_address)

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        told.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of an S3-compatible store with a bucket "models"."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("no_proxy", "127.0.0.1")
        boto3.client("s3").create_bucket(Bucket="models")
        yield f"http://{host}:{port}"
    server.stop()


def put(key: str, data: bytes) -> None:
    boto3.client("s3").put_object(Bucket="models", Key=key, Body=data)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def length_of(bank: Path, task: str) -> int:
    archive = Archive(bank)
    archive.close()
    return archive.group(task).length


def damaged(data: bytes, task: str, tmp_path: Path) -> bytes:
    """With one bit of a task turned."""
    (tmp_path / "sound.tvq").write_bytes(data)
    archive = Archive(tmp_path / "sound.tvq")
    _, at = next(archive.sections(task))
    archive.close()
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_task_costs_its_own_bytes_and_four_requests(web: Web, bank: Path) -> None:
    with tvcodec.open(f"{web.url}/bank.tvq") as opened:
        assert len(web.asked) == 2
        decoded = opened.decode("bee", BASE)
        for name in TUNES["bee"]:
            assert_same(decoded[name], TUNES["bee"][name])
        assert web.sent <= length_of(bank, "bee") + SMALL
        assert len(web.asked) == 4
        dict(decoded)  # read again, from what was fetched
        assert len(web.asked) == 4
        dict(opened.decode("cow", BASE))
        assert web.sent <= length_of(bank, "bee") + length_of(bank, "cow") + SMALL
    assert {status for _, status, _ in web.asked} == {206}


def test_large_tasks_come_in_ranges_at_a_time(
    web: Web, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RANGE", 50_000)
    with tvcodec.open(f"{web.url}/bank.tvq") as opened:
        assert_same(opened.decode("bee", BASE)["a.weight"], TUNES["bee"]["a.weight"])
    asked = length_of(bank, "bee")
    assert asked / 50_000 < len(web.asked) - 2 < asked / 50_000 + 4
    assert max(length for _, _, length in web.asked[2:]) <= 50_000
    assert web.sent <= asked + SMALL


def test_a_redirection_is_followed(web: Web, data: bytes) -> None:
    with tvcodec.open(f"{web.url}/moved") as opened:
        assert_same(opened.decode("bee", BASE)["a.weight"], TUNES["bee"]["a.weight"])
    assert {status for _, status, _ in web.asked} == {206, 302}
    assert web.sent < len(data) / 2


def test_what_a_command_says_of_a_url_is_what_it_says_of_the_file(web: Web, bank: Path) -> None:
    url = f"{web.url}/bank.tvq"
    for command in (["info", "--json"], ["info", "--diagnostics"], ["verify", "--json"]):
        web.asked.clear()
        local, far = (run(command[0], place, *command[1:]) for place in (bank, url))
        assert far.exit_code == 0, far.output
        assert json.loads(far.stdout) == {
            **json.loads(local.stdout),
            **({"path": url} if "--json" in command else {}),
        }
        if command[0] == "info":
            assert web.sent < SMALL  # no section of a task
    assert web.sent <= len(bank.read_bytes()) + SMALL


def test_all_commands_that_read_take_urls(web: Web, tmp_path: Path) -> None:
    url, base = f"{web.url}/bank.tvq", tmp_path / "base.safetensors"
    save_file(BASE, base)
    save_file(TUNES["ant"], tmp_path / "ant.safetensors")
    merged, back = tmp_path / "merged.safetensors", tmp_path / "bee.safetensors"
    left, more = tmp_path / "left.tvq", tmp_path / "more.tvq"
    for arguments in (
        ["decode", url, "bee", "--base-model", base, "-o", back],
        ["merge", url, "--base-model", base, "--tasks", "ant,cow", "-o", merged],
        ["remove", url, "bee", "-o", left],
        ["add", url, base, f"eel={tmp_path}/ant.safetensors", "--recipe", "exact", "-o", more],
        ["salvage", url, "-o", tmp_path / "saved.tvq"],
        ["verify", url, "--base-model", base, "--against", f"ant={tmp_path}/ant.safetensors"],
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    assert_same(load_file(back)["b.weight"], TUNES["bee"]["b.weight"])
    assert load_file(merged).keys() == BASE.keys()
    assert Archive(left).tasks == ("ant", "cow", "dog")
    assert Archive(more).tasks == ("ant", "bee", "cow", "dog", "eel")
    assert (tmp_path / "saved.tvq").read_bytes() == web.files["/bank.tvq"]


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_is_replaced_while_it_is_read_is_noticed(
    web: Web, data: bytes, etags: bool
) -> None:
    web.etags = etags
    with tvcodec.open(f"{web.url}/bank.tvq") as opened:
        dict(opened.decode("ant", BASE))
        web.files["/bank.tvq"] = bytes(len(data) - (not etags))
        with pytest.raises(tvcodec.TvqError, match="changed while it was read") as raised:
            dict(opened.decode("bee", BASE))
        assert raised.value.hint == "open it again"
        dict(opened.decode("ant", BASE))  # which was fetched before
        web.files["/bank.tvq"] = b""
        with pytest.raises(tvcodec.TvqError, match="changed while it was read"):
            dict(opened.decode("bee", BASE))


def test_an_object_that_is_replaced_while_it_is_read_is_noticed(store: str, data: bytes) -> None:
    put("changing.tvq", data)
    with tvcodec.open("s3://models/changing.tvq") as opened:
        put("changing.tvq", data[:-1] + b"x")
        with pytest.raises(tvcodec.TvqError, match="changed while it was read"):
            dict(opened.decode("bee", BASE))


@pytest.mark.parametrize("change", ["time", "size"])
def test_an_object_of_a_store_without_etags_is_watched_too(
    web: Web, store: str, data: bytes, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    web.etags, web.modified = False, "Sun, 01 Nov 2026 10:00:00 GMT"
    web.files["/models/untagged.tvq"] = data
    with tvcodec.open("s3://models/untagged.tvq") as opened:
        assert_same(opened.decode("ant", BASE)["a.weight"], TUNES["ant"]["a.weight"])
        if change == "time":
            web.modified = "Sun, 01 Nov 2026 10:00:01 GMT"
        else:
            web.files["/models/untagged.tvq"] = data + b"x"
        with pytest.raises(tvcodec.TvqError, match="changed while it was read"):
            dict(opened.decode("bee", BASE))


def test_any_other_file_system_is_asked_after_each_read(bank: Path, data: bytes) -> None:
    with tvcodec.open(bank.as_uri()) as opened:
        dict(opened.decode("ant", BASE))
        bank.write_bytes(data + b"x")
        with pytest.raises(tvcodec.TvqError, match="changed while it was read"):
            dict(opened.decode("bee", BASE))


def test_of_an_object_in_a_store_only_ranges_are_read(
    store: str, bank: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("bank.tvq", data)
    read, lengths = remote.objects.S3Object._read, list[int]()

    def watched(self: Any, ranges: Any) -> list[bytes]:
        pieces = read(self, ranges)
        lengths.extend(map(len, pieces))
        return pieces

    monkeypatch.setattr(remote.objects.S3Object, "_read", watched)
    with tvcodec.open("s3://models/bank.tvq") as opened:
        assert_same(opened.decode("bee", BASE)["a.weight"], TUNES["bee"]["a.weight"])
    assert sum(lengths) <= length_of(bank, "bee") + SMALL
    assert len(lengths) == 4


def test_no_byte_is_given_that_has_not_its_tasks_sha256(
    web: Web, data: bytes, tmp_path: Path
) -> None:
    """Though it is the section of another parameter that is damaged."""
    web.files["/bank.tvq"] = damaged(data, "bee", tmp_path)
    with tvcodec.open(f"{web.url}/bank.tvq") as opened:
        tau = opened.decode("bee", BASE)
        for name in BASE:
            with pytest.raises(tvcodec.FormatError, match="task 'bee': checksum mismatch"):
                tau[name]
        assert_same(opened.decode("cow", BASE)["a.weight"], TUNES["cow"]["a.weight"])
    result = run("verify", f"{web.url}/bank.tvq")
    assert result.exit_code == 1
    assert "task 'bee', parameter" in result.stderr


def test_a_server_without_ranges_is_refused_before_it_sends_a_file(
    web: Web, data: bytes, tmp_path: Path
) -> None:
    web.ranges = False
    result = run("info", f"{web.url}/bank.tvq")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"Error: {web.url}/bank.tvq: expected a server that gives byte ranges, got one that does"
        " not",
        "hint: copy the file first: tvcodec copy URL bank.tvq",
    ]
    assert run("copy", f"{web.url}/bank.tvq", tmp_path / "copy.tvq").exit_code == 0
    assert (tmp_path / "copy.tvq").read_bytes() == data


def test_ranges_may_come_in_chunks_and_without_a_length(
    web: Web, data: bytes, tmp_path: Path
) -> None:
    web.chunked = True
    with tvcodec.open(f"{web.url}/bank.tvq") as opened:
        assert_same(opened.decode("bee", BASE)["a.weight"], TUNES["bee"]["a.weight"])
    assert {status for _, status, _ in web.asked} == {206}
    web.extra = b"x"
    with pytest.raises(NoRanges):
        tvcodec.open(f"{web.url}/bank.tvq")
    web.extra, web.cut = b"", 1
    with pytest.raises(NoRanges):
        tvcodec.open(f"{web.url}/bank.tvq")


@pytest.mark.parametrize("wrong", ["longer", "packed", "cut"])
def test_an_answer_that_is_not_the_range_asked_for_is_refused_unread(web: Web, wrong: str) -> None:
    """Its body may be endless, or unpack into more than was asked for."""
    if wrong == "longer":
        web.extra = bytes(1000)
    elif wrong == "packed":
        web.files["/bank.tvq"] = gzip.compress(bytes(1 << 20))
        web.headers = {"Content-Encoding": "gzip"}
    else:
        web.headers = {"Content-Range": f"bytes 0-9/{len(web.files['/bank.tvq'])}"}
    with pytest.raises(NoRanges):
        tvcodec.open(f"{web.url}/bank.tvq")
    assert [status for _, status, _ in web.asked] == [206]


@pytest.mark.parametrize("target", ["there/", "not-there/"])
def test_a_directory_is_no_target(bank: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "there").mkdir()
    failed = run("copy", bank, f"{tmp_path}/{target}")
    assert failed.exit_code == 1
    assert "expected the name of a file, got a directory" in failed.stderr
    assert not (tmp_path / "not-there").exists()
    assert not list((tmp_path / "there").iterdir())


def test_a_file_is_copied_there_and_back(
    store: str, bank: Path, data: bytes, tmp_path: Path
) -> None:
    key, root = "new/copied.tvq", Archive(bank).container.root_digest.hex()
    there = f"s3://models/{key}"
    result = run("copy", bank, there, "--json", "--expect-root", root)
    assert json.loads(result.stdout)["root"] == root
    found = boto3.client("s3").get_object(Bucket="models", Key=key)["Body"].read()
    assert found == data
    refused = run("copy", bank, there)
    assert refused.exit_code == 1
    assert refused.stderr == f"Error: {there}: exists already\nhint: --force overwrites it\n"
    result = run("copy", there, tmp_path / "back.tvq")
    assert result.stderr.endswith(f"back.tvq: {len(data) / 1e3:.1f} kB, 4 tasks\n"), result.output
    assert (tmp_path / "back.tvq").read_bytes() == data
    assert run("copy", there, there, "--force").exit_code == 0
    assert found == boto3.client("s3").get_object(Bucket="models", Key=key)["Body"].read()


def test_companion_files_are_copied_and_checked_too(store: str, tmp_path: Path) -> None:
    for name, state in {"base": BASE, "ant": TUNES["ant"]}.items():
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
    bank, there = tmp_path / "bank.tvq", "s3://models/companions.tvq"
    tvcodec.encode(tmp_path / "base", {"ant": tmp_path / "ant"}, bank)
    with Archive(bank).container as container:
        root = container.root_digest.hex()
    assert copy(bank, there).root == root
    with tvcodec.open(there) as opened:
        opened.archive.verify()
        at = opened.archive.root.companions_offset
    data = bytearray(bank.read_bytes())
    data[at] ^= 1
    bank.write_bytes(data)
    for target in (str(tmp_path / "copy.tvq"), "s3://models/wrong.tvq"):
        with pytest.raises(tvcodec.FormatError, match="companion files: checksum mismatch"):
            copy(bank, target)
    assert not (tmp_path / "copy.tvq").exists()
    listed = boto3.client("s3").list_objects_v2(Bucket="models", Prefix="wrong")
    assert listed["KeyCount"] == 0


def test_a_damaged_file_is_not_copied(web: Web, store: str, data: bytes, tmp_path: Path) -> None:
    wrong = web.files["/bank.tvq"] = damaged(data, "dog", tmp_path)
    (tmp_path / "wrong.tvq").write_bytes(wrong)
    target = tmp_path / "out" / "copy.tvq"
    target.parent.mkdir()
    for source in (f"{web.url}/bank.tvq", tmp_path / "wrong.tvq"):
        result = run("copy", source, target)
        assert result.exit_code == 1
        assert f"Error: {source}: task 'dog', parameter" in result.stderr
        assert list(target.parent.iterdir()) == []
        assert run("copy", source, "s3://models/wrong.tvq").exit_code == 1
    listed = boto3.client("s3").list_objects_v2(Bucket="models", Prefix="wrong")
    assert listed["KeyCount"] == 0
    web.asked.clear()
    result = run("copy", f"{web.url}/bank.tvq", target, "--expect-root", "0" * 64)
    assert "expected root 0000" in result.stderr
    assert web.sent < SMALL


def test_a_source_that_changes_leaves_nothing_at_the_target(
    store: str, bank: Path, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sound when it is checked, and no longer when it is sent."""
    verify = Archive.verify_group

    def then_changed(self: Archive, task: str | None) -> None:
        verify(self, task)
        if task == "dog":
            bank.write_bytes(damaged(data, "dog", tmp_path))

    monkeypatch.setattr(Archive, "verify_group", then_changed)
    with pytest.raises(tvcodec.FormatError, match="task 'dog'"):
        copy(bank, "s3://models/half.tvq")
    client = boto3.client("s3")
    assert client.list_objects_v2(Bucket="models", Prefix="half")["KeyCount"] == 0
    assert "Uploads" not in client.list_multipart_uploads(Bucket="models")


def test_what_cannot_be_read_is_said_in_a_line_and_a_hint(web: Web, store: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/bank.tvq"
        for url, message in {
            f"{web.url}/none.tvq": "there is no such file",
            f"{web.url}/403": "access is refused: HTTP status 403",
            f"{web.url}/503": "the server answers with HTTP status 503",
            "http://no-such-host.invalid/bank.tvq": "cannot be reached: ",
            closed: "cannot be reached: ",
            "s3://models/none.tvq": "there is no such file",
            "s3://no-such-bucket/bank.tvq": "there is no such file",
            "nothing://models/bank.tvq": "nothing opens URLs of this kind: ",
        }.items():
            result = run("info", url)
            assert result.exit_code == 1
            assert isinstance(result.exception, SystemExit)
            error, hint = result.stderr.splitlines()
            assert error.startswith(f"Error: {url}: {message}")
            assert hint.startswith("hint: ")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    registered = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(registered, "s3", raising=False)
    result = run("info", "s3://models/bank.tvq")
    assert result.exit_code == 1
    assert "a package is missing: Install s3fs to access S3" in result.stderr
    assert "hint: pip install 'tvcodec[remote]'" in result.stderr
    result = run("info", "gs://models/bank.tvq")
    assert "a package is missing: Please install gcsfs" in result.stderr


def test_secrets_in_urls_are_not_shown(web: Web, tmp_path: Path) -> None:
    host = web.url.removeprefix("http://")
    for name in ("bank.tvq", "none.tvq", "403", "503"):
        url = f"http://user:pass%40word@{host}/{name}?X-Amz-Signature=abc123&x=1"
        for arguments in (["info", url, "--json"], ["verify", url], ["copy", url, url]):
            said = run(*arguments).output
            assert f"http://***@{host}/{name}?***" in said
            assert not any(secret in said for secret in ("user", "pass", "abc123"))
    web.asked.clear()
    with tvcodec.open(f"http://user:word@{host}/bank.tvq?X-Amz-Signature=abc123") as opened:
        assert "word" not in repr(opened)
        assert "abc123" not in repr(opened)
        web.files.clear()
        with pytest.raises(tvcodec.TvqError, match="no such file") as raised:
            dict(opened.decode("ant", BASE))
        assert raised.value.__cause__ is None
        assert "abc123" not in str(raised.value)


def test_no_secret_is_written_into_a_merge(web: Web, tmp_path: Path) -> None:
    save_file(BASE, tmp_path / "base.safetensors")
    url = web.url.replace("//", "//user:word@") + "/bank.tvq?sig=abc123"
    out = tmp_path / "merged"
    assert (
        run("merge", url, "--base-model", tmp_path / "base.safetensors", "-o", out).exit_code == 0
    )
    for path in (out / "README.md", out / "model.safetensors"):
        written = path.read_bytes()
        assert b"/bank.tvq?***" in written
        assert not any(secret in written for secret in (b"user", b":word", b"abc123"))


def test_what_carries_files_refuses_urls_and_shows_no_secret(tmp_path: Path) -> None:
    url, out = "https://user:word@example.org/bank.tvq?sig=abc123", tmp_path / "out"
    for command in (["export", url, "--format", "safetensors"], ["import", url]):
        result = run(*command, "-o", out)
        assert result.exit_code == 1
        assert "https://***@example.org/bank.tvq?***: expected a local file" in result.stderr
        assert "hint: " in result.stderr
        assert not any(secret in result.output for secret in ("user", "word", "abc123"))


def test_what_changes_files_refuses_urls(web: Web, bank: Path, tmp_path: Path) -> None:
    url, base = f"{web.url}/bank.tvq", tmp_path / "base.safetensors"
    save_file(BASE, base)
    for arguments, hint in (
        (["remove", url, "ant"], "copy it first (tvcodec copy), or write to another file with -o"),
        (["add", url, base, f"eel={base}"], "copy it first (tvcodec copy)"),
        (["remove", bank, "ant", "-o", url], "write there, then: tvcodec copy"),
        (["encode", base, f"eel={base}", "-o", url], "write there, then: tvcodec copy"),
        (["decode", bank, "ant", "--base-model", base, "-o", f"{url}.safetensors"], "write there"),
        (["salvage", bank, "-o", url], "write there, then: tvcodec copy"),
        (["decode", bank, "ant", "--base-model", url, "-o", tmp_path / "o"], "download it first"),
        (["copy", bank, url], "copy to where files can be put"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith(f"Error: {url}"), result.stderr
        assert f"\nhint: {hint}" in result.stderr
    assert web.asked == []


def test_a_path_is_a_url_by_its_scheme() -> None:
    urls = ["https://h/x", "s3://b/k", "simplecache::s3://b/k"]
    assert all(map(is_url, urls))
    paths = ["bank.tvq", "C://bank.tvq", "./s3://b/k", "a:b", Path("s3://b/k")]
    assert not any(map(is_url, paths))
    assert shown("https://u:p@h/x?y=z#w") == "https://***@h/x?***"
    assert shown("dir/what?.tvq") == "dir/what?.tvq"
    assert redacted("is wrong", "https://@h/x") == "is wrong"
    said = redacted("at https://u:p@h/x?y=z: u:p and y=z are wrong", "https://u:p@h/x?y=z")
    assert said == "at https://***@h/x?*** *** and *** are wrong"


def test_what_is_held_is_not_missing() -> None:
    held = Ranges()
    for start, end in ((10, 20), (30, 40), (20, 22), (50, 60), (38, 52)):
        held.add(start, end)
    assert list(held.missing(0, 100)) == [(0, 10), (22, 30), (60, 100)]
    assert list(held.missing(12, 22)) == []
    assert list(held.missing(21, 31)) == [(22, 30)]
    assert joined([(30, 40), (0, 10), (15, 20)], 5) == [(0, 20), (30, 40)]
    assert list(split(0, 7, 3)) == [(0, 3), (3, 6), (6, 7)]


def test_the_web_server_here_is_one(web: Web, data: bytes) -> None:
    """Asked by a client that is not the one under test."""
    request = urllib.request.Request(f"{web.url}/bank.tvq", headers={"Range": "bytes=8-15"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        assert (answer.status, answer.read()) == (206, data[8:16])
