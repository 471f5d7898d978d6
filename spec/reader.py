"""A second reader of .tvq files: written from tvq.md, in its order, sharing no code with tvcodec.

    file = File("bank.tvq")                       section 5 and the root index
    file.verify()                                 every rule that needs no base model
    base = read_safetensors("base.safetensors")
    file.task_vector("cars", base)                name -> float32 array
    file.fine_tune("cars", base)                  name -> Tensor

It keeps whole files in memory and computes in float64: made to be read and compared against, not to
be fast. Whatever breaks a rule of tvq.md raises Refused with the number of that rule.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import unicodedata
import zlib
from collections import Counter, namedtuple
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import zstandard


class Refused(Exception):
    """The file breaks rule `rule` of tvq.md."""

    def __init__(self, rule: int, message: str) -> None:
        super().__init__(f"R{rule}: {message}")
        self.rule = rule


def require(rule: int, condition: object, message: str) -> None:
    if not condition:
        raise Refused(rule, message)


# Section 5 bytes.

MAGIC, END_MAGIC = b"\x89TVQ\r\n\x1a\n", b"TVQ1END\n"
INDEX_MAX = 1 << 26


def aligned(length: int) -> int:
    return -(-length // 8) * 8


class File:
    """A .tvq file, its prologue, trailer and root index checked; `expected_root` is hexadecimal."""

    def __init__(self, source: str | Path | bytes, expected_root: str | None = None) -> None:
        self.data = source if isinstance(source, bytes) else Path(source).read_bytes()
        self._prologue()
        self._trailer(expected_root)
        self.root = read_root(self.unpadded(self.root_at, self.root_length), self.root_at)
        self.names = [parameter.name for parameter in self.root.base_model]
        self.pinned = expected_root is not None

    def _prologue(self) -> None:
        require(1, self.data.startswith(MAGIC), "no .tvq file")
        require(5, len(self.data) >= 136, "cut")
        major, _minor, features = struct.unpack_from("<HHI", self.data, 8)
        require(2, major == 1, f"major version {major}")
        require(3, features == 0, f"unknown required features {features:#x}")
        require(4, not any(self.data[16:64]), "reserved bytes are not zero")

    def _trailer(self, expected_root: str | None) -> None:
        end = len(self.data) - 72
        at, length, size, digest, crc, zero, magic = struct.unpack_from(
            "<QQQ32sII8s", self.data, end
        )
        require(5, magic == END_MAGIC, "no end magic")
        require(6, crc == zlib.crc32(self.data[end : end + 56]), "trailer checksum")
        require(7, zero == 0, "trailer field is not zero")
        require(8, size == len(self.data), f"file length {size}")
        require(9, 1 <= length <= INDEX_MAX, f"root index of {length} bytes")
        require(9, at >= 64 and at % 8 == 0 and at + aligned(length) == end, "root index place")
        root = self.unpadded(at, length)
        require(11, hashlib.sha256(self.data[:64] + root).digest() == digest, "root digest")
        require(12, expected_root in (None, digest.hex()), "not the file that was pinned")
        self.root_at, self.root_length, self.root_digest = at, length, digest.hex()

    def unpadded(self, at: int, length: int) -> bytes:
        """A section or index, its padding checked."""
        require(10, not any(self.data[at + length : at + aligned(length)]), "padding is not zero")
        return self.data[at : at + length]

    def start(self, task: str | None) -> tuple[int, Group]:
        """Where the group of a task lies (None: the shared group), and its record."""
        at = 64
        if self.root.shared:
            if task is None:
                return at, self.root.shared
            at += self.root.shared.total
        for record in self.root.tasks:
            if record.name == task:
                return at, record.group
            at += record.group.total
        raise KeyError(task)

    def index(self, task: str | None) -> Index:
        """The index of a task (None: the shared index)."""
        at, group = self.start(task)
        data = self.unpadded(at + group.sections_length, group.index_length)
        require(14, hashlib.sha256(data).digest() == group.index_sha256, "index digest")
        vectors: dict[int, int] = {}
        if task is not None and self.root.shared:
            vectors = Counter(entry.parameter for entry in self.index(None).entries)
        index = read_index(data, self.root.base_model, vectors, shared=task is None)
        total = sum(aligned(section.length) for section in index.sections)
        require(15, total == group.sections_length, f"sections of {total} bytes")
        return index

    def sections(self, task: str | None) -> list[tuple[Any, bytes]]:
        """The records of a group's sections and their bytes, checked."""
        at, _ = self.start(task)
        out = []
        for section in self.index(task).sections:
            data = self.unpadded(at, section.length)
            require(16, zlib.crc32(data) == section.crc, "section checksum")
            out.append((section, data))
            at += aligned(section.length)
        return out

    def verify(self) -> None:
        """Checks every rule that can be checked without a base model."""
        groups = [None] if self.root.shared else []
        for task in [*groups, *(record.name for record in self.root.tasks)]:
            index, (at, group) = self.index(task), self.start(task)
            digest = hashlib.sha256(self.data[at : at + group.sections_length]).digest()
            require(17, digest == index.digest, "group digest")
            for section, data in self.sections(task):
                load_section(section, data)
        self.check_blobs()
        self.gram()

    def blobs(self) -> dict[bytes, tuple[Blob, int]]:
        """Where the contents of companion files are, by SHA-256."""
        group = self.root.companions
        if group is None:
            return {}
        at = self.companions_at
        data = self.unpadded(at + group.sections_length, group.index_length)
        require(14, hashlib.sha256(data).digest() == group.index_sha256, "index digest")
        index, out = read_blobs(data), {}
        total = sum(aligned(blob.length) for blob in index.blobs)
        require(15, total == group.sections_length, f"sections of {total} bytes")
        digest = hashlib.sha256(self.data[at : at + total]).digest()
        require(17, digest == index.digest, "group digest")
        for blob in index.blobs:
            out[blob.sha256] = blob, at
            at += aligned(blob.length)
        return out

    @property
    def companions_at(self) -> int:
        groups = [task.group for task in self.root.tasks]
        groups += [self.root.shared] if self.root.shared else []
        return 64 + sum(group.total for group in groups)

    def blob(self, sha256: bytes) -> bytes:
        """A blob, checked."""
        found = self.blobs().get(sha256)
        if found is None:
            raise Refused(66, f"no blob {sha256.hex()}")
        blob, at = found
        data = self.unpadded(at, blob.length)
        require(16, zlib.crc32(data) == blob.crc, "section checksum")
        content = unpacked(Stream(ELEMENTS, blob.length, 1, blob.size, blob.size), data)
        require(68, hashlib.sha256(content).digest() == sha256, "another file")
        return content

    def check_blobs(self) -> None:
        blobs, used = self.blobs(), set()
        for task in self.root.tasks:
            index = self.index(task.name)
            needed = [file.sha256 for file in index.files or [] if file.source]
            needed += [file.header for file in index.weights or []]
            require(66, set(needed) <= set(blobs), "a file that is not there")
            require(66, sum(blobs[one][0].size for one in needed) <= KEPT_MAX, "too many bytes")
            used |= set(needed)
        require(67, used == set(blobs), "what no task needs")
        for sha256 in blobs:
            self.blob(sha256)

    def files(self, task: str) -> dict[str, bytes | None] | None:
        """What lies beside the weights of a task, None for a file of the base model's directory;
        None where the file does not say."""
        files = self.index(task).files
        if files is None:
            return None
        return {file.name: self.blob(file.sha256) if file.source else None for file in files}

    def weight_files(self, task: str, base: dict[str, Tensor]) -> dict[str, bytes]:
        """Step 11: the files that the weights of a task were in."""
        tensors, out = self.fine_tune(task, base), {}
        for file in self.index(task).weights or []:
            content = self.blob(file.header)
            header = json.loads(content[8:])
            header.pop("__metadata__", None)
            for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
                content += tensors.pop(name).values.tobytes()
            if hashlib.sha256(content).digest() != file.sha256:
                raise ValueError(f"{file.name}: another file")
            out[file.name] = content
        return out

    def gram(self) -> np.ndarray | None:
        """Inner products of all pairs of task vectors, lower triangle row by row."""
        if not self.root.gram_length:
            return None
        at = self.root_at - aligned(self.root.gram_length)
        data = self.unpadded(at, self.root.gram_length)
        digest = hashlib.sha256(data).digest()
        require(16, digest == self.root.gram_sha256, "gram digest")
        values = np.frombuffer(data, "<f4")
        diagonal = np.cumsum(np.arange(1, len(self.root.tasks) + 1)) - 1
        require(61, np.isfinite(values).all(), "an inner product is not finite")
        require(61, (values[diagonal] >= 0).all(), "a squared norm is negative")
        return values

    def taus(self, task: str, base: dict[str, Tensor] | None = None) -> dict[int, Tau]:
        """Steps 1 to 7: the task vectors of all changed parameters, by number; exact ones only with
        a base model."""
        basis: dict[int, list[Tau]] = {}
        for entry, data in self.sections(None) if self.root.shared else []:
            dims = self.root.base_model[entry.parameter].dims
            basis.setdefault(entry.parameter, []).append(decode_entry(entry, data, dims, []))
        out: dict[int, Tau] = {}
        exact = {} if base is None else self.restored(task, base)
        for number, tensor in exact.items():
            out[number] = difference(tensor, self.base(number, base or {}))
        for section, data in self.sections(task):
            if isinstance(section, Small):
                out.update(decode_small(section, data, self.root.base_model))
            elif isinstance(section, Entry) and section.parts[0].kind != EXACT:
                p = section.parameter
                dims = self.root.base_model[p].dims
                out[p] = decode_entry(section, data, dims, basis.get(p, []))
        tied = {p: out[of] for p, of in self.index(task).aliases if of in out and p not in exact}
        return out | tied

    def restored(self, task: str, base: dict[str, Tensor]) -> dict[int, Tensor]:
        """Step 7: the parameters that are stored as exact differences, those tied to them too."""
        index = self.index(task)
        out = {}
        for section, data in self.sections(task):
            if isinstance(section, Entry) and section.parts[0].kind == EXACT:
                of = section.parameter
                for p in [of, *(p for p, other in index.aliases if other == of)]:
                    converted = convert(self.base(p, base), self.dtype(index, of))
                    out[p] = restore_exact(converted, load_entry(section, data)[1][0][0])
        return out

    def dtype(self, index: Index, number: int) -> str:
        return index.dtypes.get(number, self.root.base_model[number].dtype)

    def task_vector(
        self, task: str, base: dict[str, Tensor] | None = None
    ) -> dict[str, np.ndarray]:
        """float32 arrays of all changed parameters; those stored bit-exact only with a base."""
        return {self.names[n]: tau.values for n, tau in self.taus(task, base).items()}

    def base(self, number: int, base: dict[str, Tensor]) -> Tensor:
        """The base model's parameter, checked against the file."""
        parameter = self.root.base_model[number]
        require(62, parameter.name in base, f"base model without {parameter.name}")
        tensor = base[parameter.name]
        same = (tensor.dtype, tensor.dims) == (parameter.dtype, parameter.dims)
        if self.pinned:
            same = same and fingerprint(parameter.name, tensor) == parameter.sha256
        same = same and zlib.crc32(tensor.values.tobytes()) == parameter.crc32
        require(62, same, "base model")
        return tensor

    def fine_tune(self, task: str, base: dict[str, Tensor]) -> dict[str, Tensor]:
        """Steps 7 to 10: the fine-tune itself."""
        index, taus, exact = self.index(task), self.taus(task), self.restored(task, base)
        sections = self.sections(task)
        kept = {s.parameter: load_kept(s, d) for s, d in sections if isinstance(s, Kept)}
        rows = {s.parameter: load_kept(s, d) for s, d in sections if isinstance(s, Rows)}
        out = {name: tensor for name, tensor in kept.items() if isinstance(name, str)}
        for number, name in enumerate(self.names):
            of = dict(index.aliases).get(number, number)
            if number in index.missing:
                continue
            if number in kept or number in exact:
                tensor = kept.get(number) or exact[number]
            else:
                tensor = add(self.base(number, base), taus.get(number), self.dtype(index, of))
            if of in rows:
                joined = np.concatenate([tensor.values, rows[of].values])
                tensor = Tensor(tensor.dtype, joined.shape, joined)
            out[name] = tensor
        return dict(sorted(out.items()))


# Section 6 indexes: spelling.

ITEMS_MAX, TEXT_MAX, BIN_MAX, CONTAINERS_MAX, DEPTH_MAX = 1 << 18, 1 << 16, 32, 1 << 22, 8


class Spelling:
    """Reads the one canonical msgpack value in `data`."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.containers = data, 0, 0

    def whole(self) -> Any:
        value = self.value(0)
        require(19, self.at == len(self.data), "bytes behind the index")
        return value

    def take(self, count: int) -> bytes:
        require(19, self.at + count <= len(self.data), "index ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def head(self, width: int, least: int) -> int:
        """A big-endian number of `width` bytes, which no shorter form could hold."""
        number = int.from_bytes(self.take(width), "big")
        require(20, number >= least, "a long form of a short number")
        return number

    def value(self, depth: int) -> Any:
        byte = self.take(1)[0]
        if byte < 0x80:
            return byte
        if byte < 0x90:
            return self.map(byte & 15, depth)
        if byte < 0xA0:
            return self.array(byte & 15, depth)
        if byte < 0xC0:
            return self.text(byte & 31)
        if byte >= 0xE0:
            return byte - 256
        match byte:
            case 0xC0:
                return None
            case 0xC2 | 0xC3:
                return byte == 0xC3
            case 0xC4 | 0xC5 | 0xC6:
                return self.binary(self.head(1 << byte - 0xC4, (0, 1 << 8, 1 << 16)[byte - 0xC4]))
            case 0xCA:
                return struct.unpack(">f", self.take(4))[0]
            case 0xCB:
                raise Refused(20, "a float of 8 bytes")
            case 0xCC | 0xCD | 0xCE | 0xCF:
                size = byte - 0xCC
                return self.head(1 << size, (0x80, 1 << 8, 1 << 16, 1 << 32)[size])
            case 0xD0 | 0xD1 | 0xD2 | 0xD3:
                number = int.from_bytes(self.take(1 << byte - 0xD0), "big", signed=True)
                floors = (-32, -(1 << 7), -(1 << 15), -(1 << 31))
                require(20, number < floors[byte - 0xD0], "a long form of a short number")
                return number
            case 0xD9 | 0xDA | 0xDB:
                return self.text(self.head(1 << byte - 0xD9, (32, 1 << 8, 1 << 16)[byte - 0xD9]))
            case 0xDC | 0xDD:
                return self.array(self.head(*((2, 16), (4, 1 << 16))[byte - 0xDC]), depth)
            case 0xDE | 0xDF:
                return self.map(self.head(*((2, 16), (4, 1 << 16))[byte - 0xDE]), depth)
            case 0xC1:
                raise Refused(19, "byte C1")
        raise Refused(18, "an extension type")

    def text(self, length: int) -> str:
        require(18, length <= TEXT_MAX, "text too long")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise Refused(19, "text is not UTF-8") from None

    def binary(self, length: int) -> bytes:
        require(18, length <= BIN_MAX, "binary too long")
        return self.take(length)

    def enter(self, count: int, depth: int) -> None:
        self.containers += 1
        require(18, count <= ITEMS_MAX and depth < DEPTH_MAX, "array or map too long or too deep")
        require(18, self.containers <= CONTAINERS_MAX, "too many arrays and maps")

    def array(self, count: int, depth: int) -> list[Any]:
        self.enter(count, depth)
        return [self.value(depth + 1) for _ in range(count)]

    def map(self, count: int, depth: int) -> dict[str, Any]:
        self.enter(count, depth)
        out: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            require(22, type(key) is str, "a key is not text")
            require(20, key not in out, "a key comes twice")
            out[key] = self.value(depth + 1)
        return out


# Section 6 indexes: fields.

U32, U48, COUNT_MAX = (1 << 32) - 1, (1 << 48) - 1, (1 << 40) - 1
WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4}
WIDTHS |= {"int16": 2, "int8": 1, "uint8": 1, "bool": 1}
TASK_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
FORBIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}  # but for the space


def fields(value: Any, count: int) -> list[Any]:
    require(22, type(value) is list and len(value) == count, f"not an array of {count}")
    return value


def listed(value: Any) -> list[Any]:
    require(22, type(value) is list, "not an array")
    return value


def integer(value: Any, most: int, least: int = 0, rule: int = 23) -> int:
    require(22, type(value) is int, "not an integer")
    require(rule, least <= value <= most, f"{value} is not in {least}..{most}")
    return value


def real(value: Any) -> float:
    require(22, type(value) is float, "not a float")
    require(24, math.isfinite(value), "not finite")
    return value


def magnitude(value: Any) -> float:
    require(25, math.copysign(1, real(value)) > 0, "negative")
    return value


def digest(value: Any) -> bytes:
    require(22, type(value) is bytes and len(value) == 32, "not 32 bytes")
    return value


def printable(value: Any, rule: int) -> str:
    require(22, type(value) is str, "not text")
    good = all(c == " " or unicodedata.category(c) not in FORBIDDEN for c in value)
    good = good and unicodedata.is_normalized("NFC", value)
    require(rule, 1 <= len(value) <= 512 and good, f"name {value!a:.60}")
    return value


def metadata(value: Any) -> dict[str, str]:
    require(22, type(value) is dict, "not a map")
    require(28, len(value) <= 1024 and list(value) == sorted(value), "too many keys, or unsorted")
    for key, text in value.items():
        printable(key, 28)
        require(22, type(text) is str, "not text")
    return value


def dtype_name(value: Any) -> str:
    require(22, type(value) is str, "not text")
    require(29, value in WIDTHS, f"dtype {value!a:.60}")
    return value


def dimensions(value: Any) -> tuple[int, ...]:
    dims = tuple(integer(dim, U48, rule=30) for dim in listed(value))
    product = math.prod(dim or 1 for dim in dims)
    require(30, len(dims) <= 8 and product <= COUNT_MAX, f"dimensions {dims}")
    return dims


def keyed(value: Any, keys: str, optional: str = "") -> Any:
    require(22, type(value) is dict, "not a map")
    wanted = [key for key in keys.split() if key not in optional.split() or key in value]
    require(21, list(value) == wanted, f"keys {list(value)!a:.200}")
    return value


def increasing(values: list[Any], rule: int, strictly: bool = True) -> None:
    for before, value in pairwise(values):
        require(rule, before < value or (before == value and not strictly), "not sorted")


# Section 6 indexes: root.


Parameter = namedtuple("Parameter", "name dtype dims sha256 crc32")
Group = namedtuple("Group", "sections_length index_length index_sha256 total")
Task = namedtuple("Task", "name group norm error")
Root = namedtuple("Root", "base_model companions gram_length gram_sha256 metadata shared tasks")


def read_root(data: bytes, at: int) -> Root:
    names = " ".join(Root._fields)
    keys = keyed(Spelling(data).whole(), names, "companions")
    base_model = [read_parameter(value) for value in listed(keys["base_model"])]
    increasing([parameter.name for parameter in base_model], 31)
    tasks = [read_task(value) for value in listed(keys["tasks"])]
    increasing([task.name for task in tasks], 32)
    require(32, len({task.name.lower() for task in tasks}) == len(tasks), "names differ in case")
    gram_length = integer(keys["gram_length"], U48)
    gram_sha256 = digest(keys["gram_sha256"])
    require(34, gram_length in (0, 2 * len(tasks) * (len(tasks) + 1)), "gram length")
    require(34, gram_length or not any(gram_sha256), "digest of nothing")
    shared = None if keys["shared"] is None else read_group(fields(keys["shared"], 3))
    companions = None
    if "companions" in keys:
        companions = read_group(fields(keys["companions"], 3))
    groups = [task.group for task in tasks] + [group for group in (shared, companions) if group]
    place = 64 + sum(group.total for group in groups) + aligned(gram_length)
    require(13, place == at, f"root index at {at}, lengths say {place}")
    pairs = metadata(keys["metadata"])
    return Root(base_model, companions, gram_length, gram_sha256, pairs, shared, tasks)


def read_parameter(value: Any) -> Parameter:
    name, dtype, dims, sha256, crc = fields(value, 5)
    content = digest(sha256), integer(crc, U32)
    return Parameter(printable(name, 26), dtype_name(dtype), dimensions(dims), *content)


def read_task(value: Any) -> Task:
    name, *group, norm, error = fields(value, 6)
    require(22, type(name) is str, "not text")
    good = TASK_NAME.fullmatch(name) and not DEVICE.fullmatch(name.lower())
    require(27, good, f"task {name!a:.60}")
    return Task(name, read_group(group), magnitude(norm), magnitude(error))


def read_group(value: list[Any]) -> Group:
    length = integer(value[0], U48)
    require(33, length % 8 == 0, "sections are not padded")
    index_length = integer(value[1], INDEX_MAX, 1)
    return Group(length, index_length, digest(value[2]), length + aligned(index_length))


# Section 6 indexes: tasks.

FLOAT16, FLOAT32, SYMBOLS, UNSIGNED, INTEGERS, ELEMENTS = range(6)
ROWS, ENTRIES = range(2)
FACTORS, LARGEST, UNIFORM, STAGE, GROUPED, VALUES, COEFFICIENTS, EXACT = range(1, 9)
SIZES: list[Any] = [(0,), (0,), range(2, 257), range(1, 33), (1, 2, 4, 8), (1, 2, 4, 8)]
FLOATS = (FLOAT16, FLOAT32)


Stream = namedtuple("Stream", "kind length size count packed")
Extent = namedtuple("Extent", "rows columns count")
Mask = namedtuple("Mask", "kind kept bits")
Part = namedtuple("Part", "kind settings streams")
Entry = namedtuple("Entry", "parameter mask parts length crc")
Small = namedtuple("Small", "length crc symbols members")
Kept = namedtuple("Kept", "parameter dtype dims length crc values")  # added, replaced
Rows = namedtuple("Rows", "parameter dtype dims length crc values")
Index = namedtuple(
    "Index",
    "added aliases digest dtypes entries metadata missing replaced rows small sections files"
    " weights",
)


def read_index(
    data: bytes, base_model: list[Parameter], vectors: dict[int, int], shared: bool
) -> Index:
    keys = keyed(
        Spelling(data).whole(),
        "added aliases digest dtypes entries files metadata missing replaced rows small weights",
        "files weights",
    )
    most = len(base_model) - 1

    def number(value: Any) -> int:
        return integer(value, most, rule=35)

    def dtype_of(p: int) -> str:
        return dtypes.get(p, base_model[p].dtype)

    def floating(value: Any) -> int:
        p = number(value)
        require(42, "float" in base_model[p].dtype and "float" in dtype_of(p), "not floats")
        require(42, math.prod(base_model[p].dims), "no values")
        return p

    def read_small(value: Any) -> Small:
        raw_length, raw_crc, raw_symbols, raw_members = fields(value, 4)
        length, crc = integer(raw_length, U48), integer(raw_crc, U32)
        members = []
        for member in listed(raw_members):
            p, norm, error, gain, scale = fields(member, 5)
            _ = magnitude(norm), magnitude(error), real(gain)
            members.append((floating(p), real(scale)))
        require(54, members, "no small parameters")
        increasing([p for p, _ in members], 36)
        count = sum(math.prod(base_model[p].dims) for p, _ in members)
        symbols = read_stream(raw_symbols, (SYMBOLS,), count)
        require(44, symbols.length == length, "length of the stream")
        return Small(length, crc, symbols, members)

    def read_entry(value: Any) -> Entry:
        raw_p, norm, error, gain, raw_mask, raw_parts, raw_length, crc = fields(value, 8)
        p = floating(raw_p)
        _ = magnitude(norm), magnitude(error), real(gain)
        mask, extent = read_mask(raw_mask, base_model[p].dims)
        raw_parts = listed(raw_parts)
        require(49, 1 <= len(raw_parts) <= 16, f"{len(raw_parts)} parts")
        width = WIDTHS[dtype_of(p)]
        parts = [read_part(part, extent, vectors.get(p, 0), width) for part in raw_parts]
        kinds = [part.kind for part in parts]
        alone = len(parts) == 1 and mask is None
        require(50, EXACT not in kinds or alone, "exact differences not alone")
        require(50, kinds.count(COEFFICIENTS) <= 1, "coefficients twice")
        require(43, not (shared and EXACT in kinds), "exact differences in the shared index")
        length = sum(stream.length for part in parts for stream in part.streams)
        length += mask.bits.length if mask else 0
        require(22, type(raw_length) is int, "not an integer")
        require(44, raw_length == length, "length of the streams")
        return Entry(p, mask, parts, length, integer(crc, U32))

    def read_kept(key: Any, value: list[Any]) -> Kept:
        raw_dtype, raw_dims, raw_length, raw_crc, raw_values = value
        dtype, dims = dtype_name(raw_dtype), dimensions(raw_dims)
        length, crc = integer(raw_length, U48), integer(raw_crc, U32)
        return Kept(key, dtype, dims, length, crc, elements(raw_values, dtype, dims, length))

    def six(value: Any) -> list[list[Any]]:
        return [fields(item, 6) for item in listed(value)]

    def read_rows(value: Any) -> Rows:
        raw_p, raw_count, raw_length, raw_crc, raw_values = fields(value, 5)
        p = number(raw_p)
        dims = base_model[p].dims
        require(40, dims, "no rows to add to")
        count = integer(raw_count, U48 - dims[0], 1, rule=40)
        product = (dims[0] + count) * math.prod(dim or 1 for dim in dims[1:])
        require(40, product <= COUNT_MAX, "too many values")
        length, crc = integer(raw_length, U48), integer(raw_crc, U32)
        shape = (count, *dims[1:])
        values = elements(raw_values, dtype_of(p), shape, length)
        return Rows(p, dtype_of(p), shape, length, crc, values)

    pairs = [fields(value, 2) for value in listed(keys["dtypes"])]
    dtypes = {number(p): dtype_name(dtype) for p, dtype in pairs}
    increasing([p for p, _ in pairs], 36)
    tied = [fields(value, 2) for value in listed(keys["aliases"])]
    aliases = [(number(p), integer(of, p - 1, rule=38)) for p, of in tied]
    added = [read_kept(printable(name, 26), rest) for name, *rest in six(keys["added"])]
    replaced = [read_kept(number(p), rest) for p, *rest in six(keys["replaced"])]
    entries = [read_entry(value) for value in listed(keys["entries"])]
    rows = [read_rows(value) for value in listed(keys["rows"])]
    missing = [number(value) for value in listed(keys["missing"])]
    small = None if keys["small"] is None else read_small(keys["small"])
    first = [small] if small else []
    sections = [*first, *entries, *replaced, *rows, *added]
    files = read_files(keys["files"]) if "files" in keys else None
    weights = read_weights(keys["weights"], files or []) if "weights" in keys else None
    others = (metadata(keys["metadata"]), missing, replaced, rows, small, sections, files, weights)
    index = Index(added, aliases, digest(keys["digest"]), dtypes, entries, *others)
    check_order(index, shared)
    if shared:
        rest = (added, aliases, dtypes, missing, replaced, rows, small, weights)
        require(43, not any(rest) and files is None, "more than entries are shared")
        counts = Counter(entry.parameter for entry in entries)
        require(43, max(counts.values(), default=0) <= 512, "too many vectors of a parameter")
    check_mentions(index, base_model, shared)
    return index


def check_order(index: Index, shared: bool) -> None:
    increasing([entry.parameter for entry in index.entries], 36, strictly=not shared)
    increasing([p for p, _ in index.aliases], 36)
    increasing(index.missing, 36)
    for records in (index.replaced, index.rows, index.added):
        increasing([record.parameter for record in records], 36)


def check_mentions(index: Index, base_model: list[Parameter], shared: bool) -> None:
    aliases, replaced = dict(index.aliases), {kept.parameter for kept in index.replaced}
    changed = [entry.parameter for entry in index.entries]
    changed += [p for p, _ in index.small.members] if index.small else []
    mentions = [*aliases, *index.missing, *replaced, *changed]
    require(37, shared or len(set(mentions)) == len(mentions), "a parameter twice")
    gone = replaced | set(index.missing)
    for p, of in aliases.items():
        require(38, of not in aliases and of not in gone, "an alias of what is not decoded")
        same = base_model[p][1:3] == base_model[of][1:3]
        require(38, same and p not in index.dtypes, "an alias of another shape or dtype")
    for p, dtype in index.dtypes.items():
        before = base_model[p].dtype
        require(39, "float" in dtype and "float" in before, "a dtype that is not of floats")
        require(39, dtype != before and p not in gone, "a dtype that is no change")
    for rows in index.rows:
        require(40, rows.parameter not in gone and rows.parameter not in aliases, "rows of nothing")
    names = {parameter.name for parameter in base_model}
    for kept in index.added:
        require(41, kept.parameter not in names, "added what the base model has")


# Section 6.8 companion files.

FILES_MAX, BLOB_MAX, KEPT_MAX = 256, 1 << 26, 1 << 28
STEP = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
OF_WEIGHTS = {
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "h5",
    "msgpack",
    "gguf",
    "onnx",
    "npz",
    "tvq",
}

Beside = namedtuple("Beside", "name source sha256")  # of `files`
Weights = namedtuple("Weights", "name sha256 header")
Blob = namedtuple("Blob", "sha256 size length crc")
Blobs = namedtuple("Blobs", "blobs digest")


def file_name(value: Any, steps: int) -> str:
    require(22, type(value) is str, "not text")
    found = value.split("/")
    for step in found:
        good = STEP.fullmatch(step) and not DEVICE.fullmatch(step.lower())
        require(63, good and len(found) <= steps, f"file {value!a:.60}")
    return value


def read_files(value: Any) -> list[Beside]:
    files = []
    for name, source, sha256 in (fields(item, 3) for item in listed(value)):
        _, dot, suffix = file_name(name, 2).lower().rpartition(".")
        require(63, not dot or suffix not in OF_WEIGHTS, f"{name} is that of weights")
        require(63, "/adapter_" not in f"/{name.lower()}", f"{name} is that of an adapter")
        files.append(Beside(name, integer(source, 1), digest(sha256)))
    check_places(files, [])
    return files


def read_weights(value: Any, files: list[Beside]) -> list[Weights]:
    weights = []
    for name, sha256, header in (fields(item, 3) for item in listed(value)):
        require(63, file_name(name, 1).endswith(".safetensors"), f"{name} is no .safetensors")
        weights.append(Weights(name, digest(sha256), digest(header)))
    require(64, weights, "no file of weights")
    check_places(weights, files)
    return weights


def check_places(files: list[Any], others: list[Any]) -> None:
    require(64, len(files) <= FILES_MAX, "too many files")
    increasing([file.name for file in files], 64)
    names = [file.name.lower() for file in [*files, *others]]
    folders = {name.split("/")[0] for name in names if "/" in name}
    require(64, len(set(names) | folders) == len(names) + len(folders), "two files in one place")


def read_blobs(data: bytes) -> Blobs:
    keys = keyed(Spelling(data).whole(), "blobs digest")
    blobs = []
    for sha256, raw_size, raw_length, crc in (fields(item, 4) for item in listed(keys["blobs"])):
        size, length = integer(raw_size, BLOB_MAX), integer(raw_length, BLOB_MAX, rule=65)
        require(65, size <= length << 15 and length <= size, f"{length} bytes for {size}")
        blobs.append(Blob(digest(sha256), size, length, integer(crc, U32)))
    require(65, blobs, "no blob")
    increasing([blob.sha256 for blob in blobs], 65)
    return Blobs(blobs, digest(keys["digest"]))


def packed_length(kind: int, size: int, count: int) -> int:
    if kind == SYMBOLS:
        return -(-count // symbols_per_byte(size))
    if kind == UNSIGNED:
        return -(-count * size // 8)
    return count * {FLOAT16: 2, FLOAT32: 4}.get(kind, size)


def symbols_per_byte(alphabet: int) -> int:
    return max(n for n in range(1, 9) if alphabet**n <= 256)


def read_stream(value: Any, kinds: tuple[int, ...], count: int, size: int | None = None) -> Stream:
    require(22, type(value) is list and 2 <= len(value) <= 3, "not a stream")
    require(22, all(type(number) is int for number in value), "not an integer")
    kind, length, found = value if len(value) == 3 else (*value, 0)
    require(45, kind in kinds, f"a stream of kind {kind}, not of {kinds}")
    require(45, len(value) == (2 if kind in FLOATS else 3), f"fields of a stream of kind {kind}")
    require(46, found in SIZES[kind] and size in (None, found), f"size {found} of a stream")
    packed = packed_length(kind, found, count)
    require(47, packed <= length << 15 and length <= packed, f"{length} bytes for {packed}")
    return Stream(kind, length, found, count, packed)


def elements(value: Any, dtype: str, dims: tuple[int, ...], length: int) -> Stream:
    stream = read_stream(value, (ELEMENTS,), math.prod(dims), WIDTHS[dtype])
    require(44, stream.length == length, "length of the stream")
    return stream


def whole(dims: tuple[int, ...]) -> Extent:
    rows, columns = (dims[0], math.prod(dims[1:])) if dims else (1, 1)
    return Extent(rows, columns, rows * columns)


def read_mask(value: Any, dims: tuple[int, ...]) -> tuple[Mask | None, Extent]:
    extent = whole(dims)
    if value is None:
        return None, extent
    raw_kind, raw_kept, raw_bits = fields(value, 3)
    kind = integer(raw_kind, ENTRIES, rule=48)
    flags = extent.rows if kind == ROWS else extent.count
    kept = integer(raw_kept, flags, 1, rule=48)
    mask = Mask(kind, kept, read_stream(raw_bits, (UNSIGNED,), flags, 1))
    if kind == ENTRIES:
        return mask, extent._replace(count=kept)
    return mask, Extent(kept, extent.columns, kept * extent.columns)


def read_part(value: Any, extent: Extent, vectors: int, width: int) -> Part:
    require(22, type(value) is list and value and type(value[0]) is int, "not a part")
    kind = value[0]
    require(49, FACTORS <= kind <= EXACT, f"a part of kind {kind}")
    _, *rest = fields(value, (5, 6, 5, 3, 5, 2, 2, 2)[kind - 1])
    count = extent.count
    if kind == FACTORS:
        rank = integer(rest[0], min(extent.rows, extent.columns), 1, rule=51)
        left = read_stream(rest[1], (*FLOATS, SYMBOLS, INTEGERS), rank * extent.rows)
        right = read_stream(rest[2], (*FLOATS, SYMBOLS, INTEGERS), rank * extent.columns)
        return Part(kind, (rank,), (left, right, read_stream(rest[3], FLOATS, rank)))
    if kind in (LARGEST, UNIFORM):
        log2 = integer(rest[0], 16, 4, rule=52)
        require(52, log2 == 4 or 1 << log2 < 2 * count, "a block larger than it has to be")
        blocks = -(-count // (1 << log2))
        if kind == UNIFORM:
            scales = read_stream(rest[2], (FLOAT16,), blocks)
            codes = read_stream(rest[3], (SYMBOLS, INTEGERS), blocks << log2)
            return Part(kind, (log2, real(rest[1])), (scales, codes))
        run = integer(rest[1], log2, 1, rule=52)
        scales = read_stream(rest[3], (FLOAT16,), blocks)
        codes = read_stream(rest[4], (UNSIGNED,), blocks << log2 - run, run + 1)
        return Part(kind, (log2, run, real(rest[2])), (scales, codes))
    if kind == STAGE:
        codes = read_stream(rest[1], (SYMBOLS, INTEGERS), count)
        return Part(kind, (real(rest[0]),), (codes,))
    if kind == GROUPED:
        group = integer(rest[0], COUNT_MAX)
        groups = -(-count // group) if group else 1
        floats = [read_stream(item, FLOATS, groups) for item in rest[1:3]]
        return Part(kind, (group,), (*floats, read_stream(rest[3], (SYMBOLS,), count)))
    if kind == VALUES:
        return Part(kind, (), (read_stream(rest[0], FLOATS, count),))
    if kind == COEFFICIENTS:
        require(53, vectors, "no shared basis")
        return Part(kind, (), (read_stream(rest[0], FLOATS, vectors),))
    # The width of exact differences is that of the dtype.
    return Part(kind, (), (read_stream(rest[0], (INTEGERS,), count, width),))


# Section 7 streams.

FRAME = 1 << 23


def unpacked(stream: Stream, data: bytes) -> bytes:
    """The packed bytes of a stream."""
    if stream.length == stream.packed:
        return data
    out = b""
    for at in range(0, stream.packed, FRAME):
        piece, data = frame(data, min(FRAME, stream.packed - at))
        out += piece
    require(55, not data, "bytes behind the last frame")
    return out


def frame(data: bytes, size: int) -> tuple[bytes, bytes]:
    require(55, data[:4] == b"\x28\xb5\x2f\xfd", "no zstd frame")
    try:
        header = zstandard.get_frame_parameters(data)
        plain = not header.has_checksum and not header.dict_id
        require(55, plain and header.content_size == size, "a frame that is not as declared")
        require(55, header.window_size <= FRAME, "a window above 8 MiB")
        decoder = zstandard.ZstdDecompressor().decompressobj()
        out = decoder.decompress(data)
    except zstandard.ZstdError as error:
        raise Refused(55, f"damaged frame: {error}") from None
    require(55, decoder.eof and len(out) == size, "a frame of another size")
    return out, decoder.unused_data


def numbers(stream: Stream, data: bytes) -> np.ndarray:
    """Floats as float64, symbols and unsigned ones unsigned, integers signed, elements as bits."""
    packed = np.frombuffer(unpacked(stream, data), np.uint8)
    if stream.kind == SYMBOLS:
        n = symbols_per_byte(stream.size)
        require(56, not packed.size or packed.max() < stream.size**n, "a byte is no symbols")
        digits = packed[:, None] // stream.size ** np.arange(n) % stream.size
        return filled(digits.reshape(-1), stream.count)
    if stream.kind == UNSIGNED:
        bits = filled(np.unpackbits(packed, bitorder="little"), stream.count * stream.size)
        places = np.int64(1) << np.arange(stream.size)
        return bits.reshape(-1, stream.size) @ places
    width = {FLOAT16: 2, FLOAT32: 4}.get(stream.kind, stream.size)
    joined = packed.reshape(width, -1).T.copy().reshape(-1).view(f"<u{width}")
    if stream.kind in FLOATS:
        with np.errstate(invalid="ignore"):  # of NaNs that signal
            floats = joined.view(f"<f{width}").astype(np.float64)
        require(59, np.isfinite(floats).all(), "a number is not finite")
        return floats
    if stream.kind == INTEGERS:
        half = (joined >> joined.dtype.type(1)).view(f"<i{width}")
        return half ^ -(joined & joined.dtype.type(1)).view(f"<i{width}")
    return joined


def filled(values: np.ndarray, count: int) -> np.ndarray:
    require(57, not values[count:].any(), "the last byte is not filled with zeros")
    return values[:count]


def load_entry(entry: Entry, data: bytes) -> tuple[np.ndarray | None, list[list[np.ndarray]]]:
    """Kept positions, and the numbers of each stream of each part."""
    at, kept = 0, None
    if entry.mask:
        at = entry.mask.bits.length
        kept = numbers(entry.mask.bits, data[:at]).nonzero()[0]
        require(58, len(kept) == entry.mask.kept, f"a mask of {len(kept)}")
    loaded: list[list[np.ndarray]] = []
    for part in entry.parts:
        loaded.append([])
        for stream in part.streams:
            loaded[-1].append(numbers(stream, data[at : at + stream.length]))
            at += stream.length
    return kept, loaded


def load_kept(record: Kept | Rows, data: bytes) -> Tensor:
    values = numbers(record.values, data).reshape(record.dims)
    require(60, record.dtype != "bool" or not (values > 1).any(), "neither true nor false")
    return Tensor(record.dtype, record.dims, values)


def load_section(section: Any, data: bytes) -> None:
    if isinstance(section, Small):
        numbers(section.symbols, data)
    elif isinstance(section, Entry):
        load_entry(section, data)
    else:
        load_kept(section, data)


# Section 8 decoding: task vectors.


TOLERANCE = 1e-5  # of the magnitude of a task vector


# Task vector of a parameter, float32, and the magnitude that its tolerance is relative to.
Tau = namedtuple("Tau", "values magnitude")


def centred(stream: Stream, values: np.ndarray) -> np.ndarray:
    """Codes as float64."""
    offset = (stream.size - 1) // 2 if stream.kind == SYMBOLS else 0
    return values.astype(np.float64) - offset


def largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def signs(seed: int, count: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = np.arange(1, -(-count // 64) + 1, dtype=np.uint64) + np.uint64(seed << 32)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
    bits = np.unpackbits(z.astype("<u8").view(np.uint8), bitorder="little")[:count]
    return 1.0 - 2.0 * bits


def hadamard(blocks: np.ndarray) -> np.ndarray:
    size, step = blocks.shape[1], 1
    while step < size:
        pairs = blocks.reshape(len(blocks), -1, 2, step)
        low, high = pairs[:, :, 0], pairs[:, :, 1]
        blocks = np.stack([low + high, low - high], 2).reshape(len(blocks), size)
        step *= 2
    return blocks / math.sqrt(size)


def unrotated(coefficients: np.ndarray, seed: int, count: int) -> tuple[np.ndarray, float]:
    values = hadamard(coefficients).reshape(-1)[:count]
    reach = math.sqrt(coefficients.shape[1]) * largest(coefficients)
    return values * signs(seed, count), reach


def part_values(
    part: Part, loaded: list[np.ndarray], extent: Extent, seed: int
) -> tuple[np.ndarray, float]:
    """Values of one part, flat, and the magnitude that its rounding errors are relative to."""
    if part.kind == FACTORS:
        rank = part.settings[0]
        left = centred(part.streams[0], loaded[0]).reshape(rank, -1)
        right = centred(part.streams[1], loaded[1]).reshape(rank, -1)
        reach = np.abs(loaded[2]) * np.abs(left).max(1) * np.abs(right).max(1)
        return ((left.T * loaded[2]) @ right).reshape(-1), float(reach.sum())
    if part.kind == LARGEST:
        log2, run, gain = part.settings
        scale = np.repeat(loaded[0] * gain, 1 << log2 - run)
        frame = np.zeros((len(scale), 1 << run))
        codes = loaded[1]
        place, sign = codes & (1 << run) - 1, 1 - 2 * (codes >> run)
        frame[np.arange(len(scale)), place] = sign * scale
        return unrotated(frame.reshape(-1, 1 << log2), seed, extent.count)
    if part.kind == UNIFORM:
        log2, gain = part.settings
        codes = centred(part.streams[1], loaded[1]).reshape(-1, 1 << log2)
        return unrotated(codes * (loaded[0] * gain)[:, None], seed, extent.count)
    if part.kind == STAGE:
        values = part.settings[0] * centred(part.streams[0], loaded[0])
    elif part.kind == GROUPED:
        group = np.arange(extent.count) // (part.settings[0] or extent.count)
        values = loaded[0][group] * loaded[2] + loaded[1][group]
    else:
        values = loaded[0]
    return values, largest(values)


def decode_entry(entry: Entry, data: bytes, dims: tuple[int, ...], basis: list[Tau]) -> Tau:
    full = whole(dims)
    kept, loaded = load_entry(entry, data)
    extent = full
    if kept is not None and entry.mask.kind == ROWS:
        extent = Extent(len(kept), full.columns, len(kept) * full.columns)
        kept = (kept[:, None] * full.columns + np.arange(full.columns)).reshape(-1)
    elif kept is not None:
        extent = full._replace(count=len(kept))
    total, reach = np.zeros(extent.count), 0.0
    for part, arrays in zip(entry.parts, loaded, strict=True):
        if part.kind == COEFFICIENTS:
            pairs = list(zip(arrays[0], basis, strict=True))
            values = sum(c * tau.values.reshape(-1).astype(np.float64) for c, tau in pairs)
            values = values if kept is None else values[kept]
            size = sum(abs(c) * tau.magnitude for c, tau in pairs)
        else:
            values, size = part_values(part, arrays, extent, entry.parameter)
            if part.kind == FACTORS and entry.mask and entry.mask.kind == ENTRIES:
                values = values[kept]
        total += values
        reach += size
    if kept is not None:
        placed = np.zeros(full.count)
        placed[kept] = total
        total = placed
    with np.errstate(over="ignore"):
        return Tau(total.astype(np.float32).reshape(dims), reach)


def decode_small(small: Small, data: bytes, base_model: list[Parameter]) -> dict[int, Tau]:
    codes = centred(small.symbols, numbers(small.symbols, data))
    out, at = {}, 0
    for number, scale in small.members:
        dims = base_model[number].dims
        values = scale * codes[at : at + math.prod(dims)]
        with np.errstate(over="ignore"):
            out[number] = Tau(values.astype(np.float32).reshape(dims), largest(values))
        at += math.prod(dims)
    return out


# Section 8 decoding: fine-tunes.


# The bits of a tensor: `values` are unsigned integers as wide as the dtype.
Tensor = namedtuple("Tensor", "dtype dims values")


def widen(tensor: Tensor) -> np.ndarray:
    """The values of a tensor of floats, as float64 (or float32 where that holds them)."""
    if tensor.dtype == "bfloat16":
        return (tensor.values.astype(np.uint32) << 16).view(np.float32)
    return tensor.values.view(f"<f{WIDTHS[tensor.dtype]}")


def narrow(values: np.ndarray, dtype: str) -> Tensor:
    """Rounded to the nearest, ties to even; to float16 and bfloat16 by way of float32."""
    with np.errstate(over="ignore"):
        floats = values.astype(np.float64 if dtype == "float64" else np.float32)
        if dtype == "float16":
            floats = floats.astype(np.float16)
    bits = np.ascontiguousarray(floats).view(f"<u{floats.dtype.itemsize}").reshape(values.shape)
    if dtype == "bfloat16":
        up = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        bits = np.where(np.isnan(floats), np.uint16(0x7FC0), up)
    return Tensor(dtype, values.shape, bits)


def convert(tensor: Tensor, dtype: str) -> Tensor:
    return tensor if tensor.dtype == dtype else narrow(widen(tensor), dtype)


def add(base: Tensor, tau: Tau | None, dtype: str) -> Tensor:
    if tau is None:
        return convert(base, dtype)
    wide = np.float64 if "float64" in (base.dtype, dtype) else np.float32
    with np.errstate(over="ignore"):
        return narrow(widen(base).astype(wide) + tau.values.astype(wide), dtype)


def ordered(bits: np.ndarray) -> np.ndarray:
    """Bit patterns as integers that grow with the value; its own inverse."""
    signed = bits.view(f"<i{bits.dtype.itemsize}")
    return np.where(signed < 0, np.iinfo(signed.dtype).min - signed - 1, signed)


def difference(tensor: Tensor, base: Tensor) -> Tau:
    wide = np.float64 if "float64" in (tensor.dtype, base.dtype) else np.float32
    with np.errstate(all="ignore"):
        values = widen(tensor).astype(wide) - widen(base).astype(wide)
        return Tau(values.astype(np.float32), 0.0)


def restore_exact(base: Tensor, differences: np.ndarray) -> Tensor:
    with np.errstate(over="ignore"):
        restored = ordered(ordered(base.values) + differences.reshape(base.dims))
    return base._replace(values=restored.view(base.values.dtype))


def fingerprint(name: str, tensor: Tensor) -> bytes:
    dims = "x".join(map(str, tensor.dims))
    head = b"tvq-base-v1\0" + f"{name}\0{tensor.dtype}\0{dims}\0".encode()
    return hashlib.sha256(head + tensor.values.tobytes()).digest()


# What stands around the format.

SAFETENSORS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SAFETENSORS |= {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"}
SAFETENSORS |= {"BOOL": "bool"}


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file that is trusted."""
    return parse_safetensors(Path(path).read_bytes())


def parse_safetensors(data: bytes) -> dict[str, Tensor]:
    start = 8 + int.from_bytes(data[:8], "little")
    out = {}
    for name, item in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = item["data_offsets"]
            dtype, dims = SAFETENSORS[item["dtype"]], tuple(item["shape"])
            bits = np.frombuffer(data[start + begin : start + end], f"<u{WIDTHS[dtype]}")
            out[name] = Tensor(dtype, dims, bits.reshape(dims))
    return out


def main(path: str) -> NoReturn:
    """Says whether the file keeps all rules."""
    try:
        file = File(path)
        file.verify()
    except Refused as refused:
        raise SystemExit(f"{path}: refused, {refused}") from None
    raise SystemExit(f"{path}: sound, root {file.root_digest}, {len(file.root.tasks)} tasks")


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
