"""Every form of a checkpoint opens as the same tensors, and nothing else opens at all."""

import ast
import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import children
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from tvcodec.checkpoint import (
    TORCH_DTYPES,
    Checkpoint,
    Plan,
    content_digest,
    dtype_name,
    file_order,
    fingerprint,
    first_nonfinite,
    open_checkpoint,
    save_directory,
    save_safetensors,
    torch_file,
)
from tvcodec.errors import CheckpointError, TvqError

Form = Callable[[Path, dict[str, Tensor]], Path]


def a_model() -> dict[str, Tensor]:
    """One tensor of every dtype, and the odd shapes."""
    torch.manual_seed(0)
    tensors = {
        f"every.{name}": (torch.rand(3, 5) * 2).to(dtype) for name, dtype in TORCH_DTYPES.items()
    }
    tensors["scalar"] = torch.tensor(1.5)
    tensors["empty"] = torch.empty(0, 4, dtype=torch.bfloat16)
    tensors["counter"] = torch.tensor(2**40 + 1)
    tensors["weight"] = torch.randn(7, 3, 2)
    return tensors


def plan_of(tensors: dict[str, Tensor]) -> Plan:
    return [(name, dtype_name(t.dtype), tuple(t.shape)) for name, t in tensors.items()]


def assert_same(found: Checkpoint | dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
        assert found[name].is_contiguous()


def refused(source: object, *words: str, hint: str | None = None) -> None:
    """`source` is refused with a message that holds `words` and says what was expected."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source)  # type: ignore[arg-type]
    message = str(caught.value)
    assert all(word in message for word in ("expected", *words)), message
    assert "\n" not in message
    if hint is not None:
        assert hint in str(caught.value.hint)


# Forms


def safetensors_form(folder: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, folder / "one.safetensors")
    return folder / "one.safetensors"


def torch_form(folder: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, folder / "one.pt")
    return folder / "one.pt"


def nested_torch_form(folder: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save({"epoch": 3, "state_dict": tensors}, folder / "one.pth")
    return folder / "one.pth"


def parameters_form(folder: Path, tensors: dict[str, Tensor]) -> Path:
    wrapped = {
        name: torch.nn.Parameter(t, requires_grad=t.is_floating_point())
        for name, t in tensors.items()
    }
    torch.save(wrapped, folder / "parameters.bin")
    return folder / "parameters.bin"


def single_form(folder: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder


def sharded_form(folder: Path, tensors: dict[str, Tensor]) -> Path:
    shards: list[dict[str, Tensor]] = [{}, {}, {}]
    for number, (name, tensor) in enumerate(tensors.items()):
        shards[number % 3][name] = tensor
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-00003.safetensors"
        save_file(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def bin_form(folder: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def sharded_bin_form(folder: Path, tensors: dict[str, Tensor]) -> Path:
    names = list(tensors)
    torch.save({n: tensors[n] for n in names[:4]}, folder / "pytorch_model-1.bin")
    torch.save({n: tensors[n] for n in names[4:]}, folder / "pytorch_model-2.bin")
    weight_map = {n: f"pytorch_model-{1 + (i >= 4)}.bin" for i, n in enumerate(names)}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


def cache_form(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """As the Hugging Face cache lays it out: names are links into a folder of blobs."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    plain = folder / "plain"
    plain.mkdir()
    sharded_form(plain, tensors)
    for file in plain.iterdir():
        blob = hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blobs / blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob)
    return snapshot


FORMS = [
    safetensors_form,
    torch_form,
    nested_torch_form,
    parameters_form,
    single_form,
    sharded_form,
    bin_form,
    sharded_bin_form,
    cache_form,
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_opens_as_the_same_tensors(form: Form, tmp_path: Path) -> None:
    tensors = a_model()
    with open_checkpoint(form(tmp_path, tensors)) as checkpoint:
        assert checkpoint.names == tuple(sorted(tensors))
        assert len(checkpoint) == len(tensors)
        assert "weight" in checkpoint
        assert_same(checkpoint, tensors)
        for name, tensor in tensors.items():
            assert TORCH_DTYPES[checkpoint.dtype(name)] == tensor.dtype
            assert checkpoint.shape(name) == tuple(tensor.shape)
        assert torch.equal(checkpoint.rows("weight", 2, 5), tensors["weight"][2:5])
        assert checkpoint.rows("weight", 3, 3).shape == (0, 3, 2)
        assert checkpoint.stored_bytes == sum(t.nbytes for t in tensors.values())


def test_a_mapping_opens_without_a_copy() -> None:
    tensors = a_model()
    tensors["turned"] = tensors["weight"].permute(2, 0, 1)
    checkpoint = open_checkpoint(tensors)
    assert_same(checkpoint, tensors)
    assert checkpoint.directory is None
    assert checkpoint.tensor("weight").data_ptr() == tensors["weight"].data_ptr()
    assert torch.equal(checkpoint.rows("turned", 1, 2), tensors["turned"][1:2])
    assert dict(checkpoint).keys() == tensors.keys()
    assert open_checkpoint(checkpoint) is checkpoint


def test_the_directory_is_where_the_configuration_lies(tmp_path: Path) -> None:
    file = safetensors_form(tmp_path, a_model())
    assert open_checkpoint(file).directory is None
    (tmp_path / "config.json").write_text("{}")
    assert open_checkpoint(str(file)).directory == tmp_path
    assert open_checkpoint(file).label == str(file)


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    bin_form(tmp_path, {"old": torch.ones(2)})
    single_form(tmp_path, {"new": torch.ones(2)})
    assert open_checkpoint(tmp_path).names == ("new",)


@pytest.mark.parametrize("version", ["2.10.1", "2.13.0+cpu"])
def test_views_and_tied_tensors_of_a_state_dict(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    whole = torch.randn(6, 4)
    tensors = {
        "embedding": whole,
        "head": whole,
        "row": whole[2],
        "turned": whole.t(),
        "every.second": whole[1::2, ::3],
    }
    checkpoint = open_checkpoint(torch_form(tmp_path, tensors))
    assert_same(checkpoint, tensors)
    for name in ("turned", "every.second"):
        assert torch.equal(checkpoint.rows(name, 1, 3), tensors[name][1:3])
    assert content_digest(checkpoint["embedding"]) == content_digest(checkpoint["head"])


def test_rows_outside_the_tensor(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(safetensors_form(tmp_path, a_model()))
    for name, start, stop in (("weight", 0, 8), ("weight", -1, 2), ("scalar", 0, 0)):
        with pytest.raises(IndexError):
            checkpoint.rows(name, start, stop)
    with pytest.raises(KeyError):
        checkpoint.tensor("absent")


def test_reading_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Pages of a mapped file would count: the peak must not follow the size of the file."""
    tensors = {f"w{i}": torch.full((1024, 1024), float(i)) for i in range(12)}
    torch_form(tmp_path, tensors)
    safetensors_form(tmp_path, tensors)
    program = (
        "import resource, sys\n"
        "from tvcodec.checkpoint import open_checkpoint\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "opened = [open_checkpoint(path) for path in sys.argv[1:]]\n"
        "before = peak()\n"
        "total = sum(float(c[name][0, 0]) for c in opened for name in c)\n"
        "print(int(total), peak() - before)\n"
    )
    done = children.run(program, tmp_path / "one.pt", tmp_path / "one.safetensors")
    assert done.returncode == 0, done.stderr
    total, growth = map(int, done.stdout.split())
    assert total == 2 * sum(range(12))
    assert growth < 3 * 4096, "more than three tensors of 4 MiB, in KiB"


# Files that are no checkpoint


@pytest.mark.parametrize(
    ("content", "found", "hint"),
    [
        (b"\x89TVQ\r\n\x1a\n" + bytes(56), "a .tvq file", "decode"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
        (b"", "an empty file", "fetch"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_files_of_another_kind(
    name: str, content: bytes, found: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, name, found, hint=hint)
    if name == "model.safetensors":
        refused(tmp_path, found, hint=hint)


def test_files_of_a_foreign_format(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    for content, found in ((b"GGUF\x03", "GGUF"), (b"hello there", "begins with b'hello th'")):
        file.write_bytes(content)
        refused(file, found)
    torch.save({"w": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    refused(file, "a bare pickle", hint=".safetensors")


def test_absent_files_and_wrong_types(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(TypeError):
        open_checkpoint(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        open_checkpoint({"w": [1.0]})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        open_checkpoint({1: torch.ones(1)})  # type: ignore[dict-item]
    os.mkfifo(tmp_path / "pipe.pt")
    refused(tmp_path / "pipe.pt", "a device or pipe")


def raw_safetensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        raw_safetensors(b"{not json}"),
        b"\xff" * 40,
        raw_safetensors(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"1234"),
        raw_safetensors(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(12)),
        raw_safetensors(b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', bytes(8)),
        raw_safetensors(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
    ],
)
def test_damaged_safetensors(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    refused(file, "w.safetensors", "damaged", hint="fetch")


def test_every_truncation_of_a_safetensors_file(tmp_path: Path) -> None:
    content = save({"a": torch.ones(2), "b": torch.ones(3, dtype=torch.float16)})
    file = tmp_path / "w.safetensors"
    for length in range(len(content)):
        file.write_bytes(content[:length])
        refused(file)


def test_a_safetensors_header_that_names_a_tensor_twice(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    entry = b'"w":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    header = b"{" + entry % (0, 4) + b"," + entry % (4, 8) + b"}"
    file.write_bytes(raw_safetensors(header, bytes(8)))
    refused(file)


def test_a_file_that_changes_while_it_is_open(tmp_path: Path) -> None:
    file = safetensors_form(tmp_path, a_model())
    checkpoint = open_checkpoint(file)
    with open(file, "r+b") as handle:
        handle.truncate(200)
    with pytest.raises(CheckpointError, match="got a changed file"):
        checkpoint.tensor("weight")


def test_bools_are_zero_or_one(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    header = b'{"w":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}'
    file.write_bytes(raw_safetensors(header, b"\x01\x07"))
    with pytest.raises(CheckpointError, match="expected bools 0 or 1, got byte 7"):
        open_checkpoint(file).tensor("w")


@pytest.mark.parametrize("form", [safetensors_form, torch_form])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.uint16])
def test_dtypes_without_a_name(form: Form, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"w": torch.ones(4).to(dtype)}
    refused(form(tmp_path, tensors), "'w'", "dtypes float64", hint="convert")
    refused(tensors, "'w'", "dtypes float64", hint="convert")


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "x\u202ey", "e\u0301", "n" * 513])
def test_names_that_would_harm_a_terminal_or_collide(name: str, tmp_path: Path) -> None:
    refused({name: torch.ones(1)}, "printable")
    refused(torch_form(tmp_path, {name: torch.ones(1)}), "printable")


@pytest.mark.parametrize("form", [safetensors_form, torch_form, single_form])
def test_checkpoints_without_tensors(form: Form, tmp_path: Path) -> None:
    refused(form(tmp_path, {}), "at least one tensor")


def test_tensors_in_memory_that_are_not_plain() -> None:
    refused({"w": torch.eye(3).to_sparse()}, "a dense tensor")
    refused({"w": torch.empty(3, device="meta")}, "on the CPU, got meta", hint=".cpu()")


# Directories


def test_directories_without_weights(tmp_path: Path) -> None:
    refused(tmp_path, "model.safetensors", "an empty directory", hint="download")
    (tmp_path / "other.safetensors").write_bytes(b"x")
    refused(tmp_path, "other files", hint="other.safetensors")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    refused(tmp_path, hint="with its adapter_config.json is a fine-tune")


def with_index(folder: Path, **changes: str | None) -> Path:
    """A sharded model whose index says something else about some tensors."""
    sharded_form(folder, {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)})
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"] | changes
    kept = {name: shard for name, shard in weight_map.items() if shard is not None}
    index.write_text(json.dumps({"weight_map": kept}))
    return folder


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "a\\b.safetensors",
        "C:model.safetensors",
        "m\0.safetensors",
        "m.safetensors\n",
        "mödel.safetensors",
        "model.bin",
        "model.pt",
        "..",
        "",
        3,
        ["m.safetensors"],
    ],
)
def test_shard_names_that_lead_elsewhere(shard: str, tmp_path: Path) -> None:
    refused(with_index(tmp_path, a=shard), "index.json", "shards named like", hint="do not trust")


def test_shards_and_index_that_disagree(tmp_path: Path) -> None:
    second = "model-00002-of-00003.safetensors"
    for number, (change, words) in enumerate(
        [
            ({"a": "gone.safetensors"}, ["the shard gone.safetensors", "no such file"]),
            ({"a": second}, ["'a'", second, "no such tensor"]),
            ({"d": second}, ["'d'", second, "no such tensor"]),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        refused(with_index(folder, **change), *words, hint="again")
    folder = tmp_path / "unnamed"
    folder.mkdir()
    save_file({"a": torch.ones(1), "extra": torch.ones(1)}, folder / "m.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m.safetensors"}}))
    refused(folder, "in the index", "'extra'")


def test_a_dangling_link_is_a_missing_shard(tmp_path: Path) -> None:
    folder = cache_form(tmp_path, a_model())
    (folder / "model-00002-of-00003.safetensors").resolve().unlink()
    refused(folder, "model-00002-of-00003.safetensors", "no such file")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 10**5]
)
def test_indexes_that_are_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    refused(tmp_path, "weight_map")


def test_an_index_without_end(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.touch()
    os.truncate(index, 65 << 20)
    refused(tmp_path, "bytes")


# Hostile state dicts


class Runs:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_code_in_a_pickle_never_runs(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "witness"
    torch.save({"w": torch.ones(2), "x": Runs(f"touch {witness}")}, tmp_path / "w.pt")
    if variable:
        monkeypatch.setenv(variable, "1")
    refused(tmp_path / "w.pt", "calls posix.system", hint=".safetensors")
    assert not witness.exists()


def test_nothing_else_unpickles() -> None:
    """One torch.load in the whole package, with weights_only=True spelled out, and no pickle but
    between the processes of an executor that the caller brings."""
    package = Path(torch_file.__file__).parents[1]
    loads = []
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "")]
                assert not {"dill", "joblib", "marshal"} & set(names), file
                assert "pickle" not in names or file.name == "workers.py", file
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
                loads.append(file.name)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options["weights_only"] == "True"
    assert loads == ["torch_file.py"]


@pytest.mark.parametrize("version", ["2.9.1", "2.5.0+cu121", "1.13.1"])
def test_torch_versions_that_run_code(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = torch_form(tmp_path, a_model())
    monkeypatch.setattr(torch, "__version__", version)
    refused(file, "torch 2.10 or newer", version, hint="upgrade torch")


@pytest.mark.parametrize("version", ["2.10.0", torch.__version__])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.zeros(1).expand(1 << 20, 1 << 20), "got a view of"),
        (torch.zeros(3).expand(2, 3), "got a view of 24"),
        (torch.eye(3).to_sparse(), "sparse_coo"),
        (torch.empty(3, device="meta"), "got none"),
        ({"deeper": torch.ones(2)}, "got dict"),
        ([torch.ones(2)], "got list"),
        (3, "got int"),
        (None, "got NoneType"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_values_that_are_no_plain_tensors(
    value: object, found: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    torch.save({"good": torch.ones(2), "bad": value}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "'bad'", found)


@pytest.mark.filterwarnings("ignore")
def test_values_that_torch_itself_may_refuse(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    for value in (
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.eye(3).to_sparse_csr(),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ):
        torch.save({"bad": value}, file)
        refused(file)


def test_state_dicts_of_another_shape(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    for value, found in (
        (torch.ones(2), "got Tensor"),
        ([("w", torch.ones(2))], "got list"),
        ({3: torch.ones(2)}, "names as keys, got int"),
        ({"state_dict": {"state_dict": {"w": torch.ones(2)}}}, "got dict"),
    ):
        torch.save(value, file)
        refused(file, found, hint=".safetensors")


def test_a_nest_of_references_costs_nothing(tmp_path: Path) -> None:
    """Thirty lists, each holding the one before ten times: 10**30 elements if one walked them."""
    nest: list[object] = []
    for _ in range(30):
        nest = [nest] * 10
    torch.save({"w": nest}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "got list")


def rewritten(
    source: Path, change: Callable[[str, bytes], tuple[str, bytes]], method: int = 0
) -> Path:
    """The archive with other entries, or with the same ones packed."""
    target = source.with_name("changed.pt")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return target


def test_archives_that_torch_did_not_write(tmp_path: Path) -> None:
    file = torch_form(tmp_path, {"w": torch.zeros(1 << 20)})

    def same(name: str, data: bytes) -> tuple[str, bytes]:
        return name, data

    refused(rewritten(file, same, zipfile.ZIP_DEFLATED), "compressed", hint="do not trust")
    refused(rewritten(file, lambda n, d: (n.replace("data.pkl", "x"), d)), "data.pkl, got 0")
    two = rewritten(file, same)
    with zipfile.ZipFile(two, "a") as archive:
        archive.writestr("other/data.pkl", b"")
    refused(two, "data.pkl, got 2")
    long = rewritten(file, lambda n, d: (n, bytes(17 << 20) if n.endswith("data.pkl") else d))
    refused(long, "data.pkl of at most")
    big = rewritten(file, lambda n, d: (n, b"big" if n.endswith("byteorder") else d))
    refused(big, "little-endian")
    overlapping = rewritten(file, same)
    with zipfile.ZipFile(overlapping, "a") as archive:
        archive.filelist += [e for e in archive.filelist if "/data/" in e.filename]
        archive.writestr("other", b"")
    refused(overlapping, "bytes inside")
    short = rewritten(file, lambda n, d: (n, d[:100] if "/data/" in n else d))
    refused(short, "'w'")


@pytest.mark.parametrize(
    ("offset", "size", "stride", "stored"),
    [
        (0, 4, 2, 4),  # the last element lies behind the storage
        (1, 4, 1, 4),
        (-1, 4, 1, 4),
        (3, 2, -1, 4),
        (0, -4, 1, 4),
        (0, 2**30, 0, 4),
        (0, 2**30, 1, 4),
        (0, 2**30, 1, 2**30),  # a storage larger than its entry
        (0, 2, 1, 2),  # and a smaller one
    ],
)
def test_places_outside_the_storage(
    offset: int, size: int, stride: int, stored: int, tmp_path: Path
) -> None:
    """The pickle of a tensor of four elements, with other numbers in it."""
    file = torch_form(tmp_path, {"w": torch.zeros(4)})

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def change(name: str, data: bytes) -> tuple[str, bytes]:
        if name.endswith("data.pkl"):
            place = b"K\0K\x04\x85q\x08K\x01\x85"
            assert place in data
            assert b"K\x04tq" in data
            changed = number(offset) + number(size) + b"\x85q\x08" + number(stride) + b"\x85"
            data = data.replace(place, changed).replace(b"K\x04tq", number(stored) + b"tq")
        return name, data

    refused(rewritten(file, change))


def test_truncated_archives(tmp_path: Path) -> None:
    file = torch_form(tmp_path, {"w": torch.ones(64)})
    content = file.read_bytes()
    for length in range(4, len(content), 7):
        file.write_bytes(content[:length])
        refused(file)


@settings(max_examples=150, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), max_size=4))
def test_flipped_bytes_of_an_archive(
    flips: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Damage is refused, or it leaves a checkpoint of the same size: never anything else."""
    file = torch_form(tmp_path_factory.mktemp("flips"), {"w": torch.ones(64), "v": torch.ones(3)})
    content = bytearray(file.read_bytes())
    for position, change in flips:
        content[position % len(content)] ^= change
    file.write_bytes(content)
    try:
        checkpoint = open_checkpoint(file)
        size = sum(checkpoint[name].nbytes for name in checkpoint)
    except CheckpointError:
        return
    assert size <= len(content)


# Digests


def test_a_fingerprint_is_what_the_specification_says() -> None:
    tensor = torch.arange(6, dtype=torch.int16).reshape(2, 3)
    expected = b"tvq-base-v1\0a.b\0int16\x002x3\0" + bytes([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0])
    assert fingerprint("a.b", "int16", (2, 3), tensor) == hashlib.sha256(expected).digest()
    turned = tensor.t().contiguous().t()
    assert fingerprint("a.b", "int16", (2, 3), turned) == hashlib.sha256(expected).digest()
    scalar = hashlib.sha256(b"tvq-base-v1\0s\0bool\0\0\x01").digest()
    assert fingerprint("s", "bool", (), torch.tensor(True)) == scalar


def test_a_content_digest_tells_bits_dtypes_and_shapes_apart() -> None:
    zeros = torch.zeros(2, 3)
    others = [zeros.t(), zeros.half(), zeros.int(), -zeros, torch.zeros(0), torch.zeros(())]
    digests = {content_digest(tensor) for tensor in [zeros, *others]}
    assert len(digests) == 7
    assert content_digest(zeros.clone()) in digests


@given(
    position=st.integers(0, 23),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    dtype=st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
)
def test_the_first_nonfinite_value(position: int, value: float, dtype: str) -> None:
    tensor = torch.zeros(24, dtype=TORCH_DTYPES[dtype])
    tensor[position] = tensor[-1] = value
    index = first_nonfinite(tensor.reshape(2, 3, 4))
    assert index == (position // 12, position // 4 % 3, position % 4)


def test_finite_tensors_have_no_nonfinite_value() -> None:
    assert all(first_nonfinite(tensor) is None for tensor in a_model().values())
    assert first_nonfinite(torch.tensor(float("nan"))) == ()
    assert first_nonfinite(torch.tensor([[1.0, float("nan")], [2.0, 3.0]]).t()) == (1, 0)


# Writers


def test_a_saved_file_is_the_library_s_own(tmp_path: Path) -> None:
    tensors = a_model()
    save_safetensors(tmp_path / "w.safetensors", plan_of(tensors), tensors.__getitem__)
    assert_same(load_file(tmp_path / "w.safetensors"), tensors)
    assert_same(open_checkpoint(tmp_path / "w.safetensors"), tensors)
    assert (tmp_path / "w.safetensors").read_bytes() == save(tensors, {"format": "pt"})


def test_the_order_of_a_plan_and_of_its_metadata_does_not_matter(tmp_path: Path) -> None:
    tensors = a_model()
    plan = plan_of(tensors)
    asked: list[str] = []

    def tensor_of(name: str) -> Tensor:
        asked.append(name)
        return tensors[name]

    metadata = {key: key * 2 for key in "qwertyuiop"}
    save_safetensors(tmp_path / "one", plan, tensor_of, metadata)
    turned = dict(reversed(metadata.items()))
    save_safetensors(tmp_path / "two", list(reversed(plan)), tensor_of, turned)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert asked == [name for name, _, _ in file_order(plan)] * 2


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.dictionaries(
        st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8),
        st.tuples(
            st.lists(st.integers(0, 4), max_size=3).map(tuple), st.sampled_from([*TORCH_DTYPES])
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_saved_is_loaded(
    shapes: dict[str, tuple[tuple[int, ...], str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensors = {
        name: (torch.rand(shape) * 3).to(TORCH_DTYPES[dtype])
        for name, (shape, dtype) in shapes.items()
    }
    file = tmp_path_factory.mktemp("saved") / "w.safetensors"
    save_safetensors(file, plan_of(tensors), tensors.__getitem__)
    assert_same(load_file(file), tensors)


def test_saving_is_refused_or_whole(tmp_path: Path) -> None:
    tensors = {"w": torch.ones(2)}
    file = tmp_path / "w.safetensors"
    save_safetensors(file, plan_of(tensors), tensors.__getitem__)
    with pytest.raises(TvqError):
        save_safetensors(file, plan_of(tensors), tensors.__getitem__)
    before = file.read_bytes()
    for wrong in (torch.ones(3), torch.ones(2).half()):
        with pytest.raises(ValueError, match="'w': expected float32"):
            save_safetensors(file, plan_of(tensors), {"w": wrong}.__getitem__, force=True)
    for plan in ([*plan_of(tensors)] * 2, [("__metadata__", "float32", (2,))]):
        with pytest.raises(ValueError, match="each name once"):
            save_safetensors(file, plan, lambda _: torch.ones(2), force=True)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]
    save_safetensors(file, [("v", "bool", ())], lambda _: torch.tensor(True), force=True)
    assert open_checkpoint(file).names == ("v",)


def test_a_saved_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_safetensors(tmp_path / "w", [("v", "bool", ())], lambda _: torch.tensor(True))
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "w")}
    assert len(modes) == 1


COMPANIONS = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "merges.txt",
    "chat_template.jinja",
    "modules.json",
    "modeling_custom.py",
    "LICENSE",
    "1_Pooling/config.json",
    "additional_chat_templates/tool.jinja",
}


def a_base_directory(folder: Path) -> Path:
    folder.mkdir()
    others = {
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "trainer_state.json",
        "eval_results.json",
        "README.md",
        ".gitattributes",
        "secret/config.json",
        "onnx/config.json",
    }
    for name in COMPANIONS | others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    paths = ["", "1_Pooling", "1_Pooling/../secret", "./onnx", "..", "/etc", 3]
    (folder / "modules.json").write_text(json.dumps([{"path": path} for path in paths]))
    blob = folder / "blob"
    (folder / "config.json").rename(blob)
    (folder / "config.json").symlink_to(blob)
    return folder


@pytest.mark.parametrize("max_shard_size", [10**9, 100, 1])
def test_a_saved_directory_opens_again(max_shard_size: int, tmp_path: Path) -> None:
    tensors = a_model()
    base = a_base_directory(tmp_path / "base")
    out = tmp_path / "out"
    save_directory(
        out,
        plan_of(tensors),
        tensors.__getitem__,
        max_shard_size=max_shard_size,
        copy_from=base,
    )
    assert_same(open_checkpoint(out), tensors)
    files = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    weights = {name for name in files if name.startswith("model") and "modules" not in name}
    weights.discard("modeling_custom.py")
    assert files - weights == COMPANIONS
    assert not (out / "config.json").is_symlink()
    assert (out / "config.json").read_text() == "config.json"
    if max_shard_size == 10**9:
        assert weights == {"model.safetensors"}
        return
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {
        "total_parameters": sum(t.numel() for t in tensors.values()),
        "total_size": sum(t.nbytes for t in tensors.values()),
    }
    assert set(index["weight_map"].values()) == weights - {"model.safetensors.index.json"}
    loaded: dict[str, Tensor] = {}
    for shard in set(index["weight_map"].values()):
        part = load_file(out / shard)
        assert len(part) == 1 or sum(t.nbytes for t in part.values()) <= max_shard_size
        loaded |= part
    assert_same(loaded, tensors)


def test_a_directory_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    tensors = a_model()
    base = a_base_directory(tmp_path / "base")
    with pytest.raises(KeyError):
        save_directory(tmp_path / "out", plan_of(tensors), dict[str, Tensor]().__getitem__)
    with pytest.raises(CheckpointError, match="apart from the base model's directory"):
        save_directory(
            base, plan_of(tensors), tensors.__getitem__, copy_from=tmp_path / "base", force=True
        )
    save_directory(tmp_path / "out", plan_of(tensors), tensors.__getitem__)
    with pytest.raises(TvqError):
        save_directory(tmp_path / "out", plan_of(tensors), tensors.__getitem__)
    one = {"w": torch.ones(1)}
    save_directory(tmp_path / "out", plan_of(one), one.__getitem__, force=True)
    assert open_checkpoint(tmp_path / "out").names == ("w",)
    assert sorted(os.listdir(tmp_path)) == ["base", "out"]


@pytest.mark.parametrize(
    "name",
    [
        "thesis.docx",
        "src/main.py",
        ".git/HEAD",
        "last.pt",
        "bank.tvq",
        "1_Pooling/model.safetensors",
        "1_Pooling/deep/config.json",
        "adapter_config.json",
        "pytorch_model.bin",
        "linked.json",
    ],
)
def test_only_what_was_saved_is_replaced(name: str, tmp_path: Path) -> None:
    """A directory that holds anything else is somebody's work."""
    one = {"w": torch.ones(1)}
    base, out = a_base_directory(tmp_path / "base"), tmp_path / "out"
    for _ in range(2):
        plan = plan_of(one)
        save_directory(out, plan, one.__getitem__, copy_from=base, force=True, max_shard_size=1)
    (out / name).parent.mkdir(exist_ok=True)
    (out / "README.md").write_text("a model card, which people write")
    if name == "linked.json":
        (out / name).symlink_to("config.json")
    else:
        (out / name).write_text("work")
    before = sorted(out.rglob("*"))
    with pytest.raises(TvqError, match="--force would delete") as refused:
        save_directory(out, plan_of(one), one.__getitem__, force=True)
    named = str(refused.value).split("delete ")[1].split(",")[0]
    assert name.startswith(named)
    assert sorted(out.rglob("*")) == before


def test_companions_without_weights_are_not_replaced(tmp_path: Path) -> None:
    one = {"w": torch.ones(1)}
    for name in ("notes.txt", "main.py"):
        (tmp_path / name).write_text("work")
    with pytest.raises(TvqError, match=r"--force would delete main\.py"):
        save_directory(tmp_path, plan_of(one), one.__getitem__, force=True)
    assert sorted(os.listdir(tmp_path)) == ["main.py", "notes.txt"]


def test_modules_that_are_no_list(tmp_path: Path) -> None:
    base = a_base_directory(tmp_path / "base")
    (base / "modules.json").write_text("[3]")
    with pytest.raises(CheckpointError, match="a list of modules"):
        save_directory(
            tmp_path / "out", [("v", "bool", ())], lambda _: torch.tensor(True), copy_from=base
        )
    assert not (tmp_path / "out").exists()
