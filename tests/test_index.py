"""An index means one thing, in one spelling, or is refused with the place of the fault."""

import copy
import math
import random
import time
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvcodec.errors import FormatError
from tvcodec.file import index
from tvcodec.file.index import Stream, spelling

BASE_MODEL = tuple(
    index.BaseParameter(name, dtype, dims, bytes([number]) * 32, number)
    for number, (name, dtype, dims) in enumerate(
        [
            ("a.bias", "float32", (16,)),
            ("a.weight", "float32", (16, 32)),
            ("b.weight", "bfloat16", (64, 64)),
            ("c.weight", "float16", (40, 8)),
            ("d.position", "int64", (1, 12)),
            ("e.tied", "float16", (40, 8)),
            ("f.pooler", "float32", (8, 8)),
            ("g.scale", "float32", ()),
        ]
    )
)
HALF = index.single(0.1)


def entry(parameter, *parts, mask=None):
    streams = ([mask.bits] if mask else []) + [s for part in parts for s in part.streams()]
    length = sum(stream.length for stream in streams)
    return index.Entry(parameter, 1.5, HALF, 1.0, mask, parts, length, 7)


TASK = index.TaskIndex(
    digest=b"d" * 32,
    added=(index.Kept("a.extra", "bool", (3, 5), 15, 1, Stream(index.ELEMENTS, 15, 1)),),
    aliases=((5, 3),),
    dtypes=((3, "float32"),),
    entries=(
        entry(
            1,
            index.Coefficients(Stream(index.FLOAT16, 4)),
            index.Factors(3, Stream(2, 12, 15), Stream(4, 9, 1), Stream(index.FLOAT16, 6)),
            index.RotatedLargest(5, 4, HALF, Stream(0, 16), Stream(index.UNSIGNED, 10, 5)),
            mask=index.Mask(index.ROWS, 8, Stream(index.UNSIGNED, 2, 1)),
        ),
        entry(
            2,
            index.RotatedUniform(4, -0.25, Stream(0, 14), Stream(2, 23, 3)),
            index.Stage(0.5, Stream(index.INTEGERS, 200, 2)),
            index.GroupedStage(64, Stream(1, 8), Stream(0, 4), Stream(2, 13, 4)),
            index.Values(Stream(index.FLOAT32, 400)),
            mask=index.Mask(index.ENTRIES, 100, Stream(index.UNSIGNED, 512, 1)),
        ),
        entry(3, index.Exact(Stream(index.INTEGERS, 1000, 4))),
    ),
    metadata={"a": "one", "step": "2.0"},
    missing=(6,),
    replaced=(index.Kept(4, "int64", (1, 12), 90, 2, Stream(index.ELEMENTS, 90, 8)),),
    rows=(index.Rows(3, 2, 64, 3, Stream(index.ELEMENTS, 64, 4)),),
    small=index.Small(
        9,
        4,
        Stream(index.SYMBOLS, 9, 15),
        (index.SmallMember(0, 1.0, 0.5, 1.0, HALF), index.SmallMember(7, 1.0, 0.5, 1.0, -2.0)),
    ),
)
VECTORS = {1: 2}
SHARED = index.TaskIndex(
    digest=b"s" * 32,
    entries=(
        entry(1, index.Values(Stream(index.FLOAT16, 1024))),
        entry(1, index.Stage(1.0, Stream(index.SYMBOLS, 50, 3))),
    ),
)
SHARED_PAIR = replace(
    SHARED, entries=(*SHARED.entries, entry(3, index.Values(Stream(index.FLOAT16, 640))))
)
ROOT = index.Root(
    base_model=BASE_MODEL,
    gram_length=12,
    gram_sha256=b"g" * 32,
    metadata={"model": "encoder"},
    shared=index.Group(1080, 101, b"x" * 32),
    tasks=(
        index.TaskRecord("Cars", 800, 333, b"y" * 32, 2.0, HALF),
        index.TaskRecord("dtd", 0, 90, b"z" * 32, 0.0, 0.0),
    ),
)


def unpack_task(data):
    return index.unpack_task(data, ROOT, "bank.tvq: task 'cars'", vectors=VECTORS)


def unpack_shared(data):
    return index.unpack_shared(data, BASE_MODEL, "bank.tvq: shared basis")


def unpack_root(data):
    return index.unpack_root(data, "bank.tvq: root index")


CASES = {
    "task": (TASK, index.pack_task, unpack_task),
    "shared": (SHARED, index.pack_task, unpack_shared),
    "root": (ROOT, index.pack_root, unpack_root),
}
each_case = pytest.mark.parametrize("case", CASES)


def raw(record, pack):
    return msgpack.unpackb(pack(record))


def repack(value):
    return msgpack.packb(value, use_single_float=True)


@each_case
def test_records_survive_the_way_through_bytes(case):
    record, pack, unpack = CASES[case]
    assert unpack(pack(record)) == record
    assert pack(unpack(pack(record))) == pack(record)


def test_an_index_is_the_documented_msgpack():
    value = raw(TASK, index.pack_task)
    assert list(value) == sorted(value)
    assert value["entries"][0][4] == [0, 8, [3, 2, 1]]
    assert value["entries"][0][5][2] == [2, 5, 4, HALF, [0, 16], [3, 10, 5]]
    assert value["small"][3] == [[0, 1.0, 0.5, 1.0, HALF], [7, 1.0, 0.5, 1.0, -2.0]]
    assert value["replaced"] == [[4, "int64", [1, 12], 90, 2, [5, 90, 8]]]
    root = raw(ROOT, index.pack_root)
    assert root["shared"] == [1080, 101, b"x" * 32]
    assert root["tasks"][1] == ["dtd", 0, 90, b"z" * 32, 0.0, 0.0]
    assert root["base_model"][0] == ["a.bias", "float32", [16], bytes(32), 0]


def test_offsets_follow_from_lengths():
    assert ROOT.starts() == {"Cars": 64 + 1080 + 104, "dtd": 1248 + 800 + 336}
    assert ROOT.gram_offset == 2384 + 96
    assert ROOT.offset == 2480 + 16
    with pytest.raises(FormatError, match="expected the root index at 2496, got 2504"):
        index.unpack_root(index.pack_root(ROOT), "bank.tvq", offset=2504)
    assert index.unpack_root(index.pack_root(ROOT), "bank.tvq", offset=2496) == ROOT


def test_sections_lie_in_the_documented_order():
    sections = list(TASK.sections(64))
    kinds = [type(section).__name__ for section, _ in sections]
    assert kinds == ["Small", "Entry", "Entry", "Entry", "Kept", "Rows", "Kept"]
    assert [sections[1][1], sections[2][1]] == [64 + 16, 80 + 64]
    last, offset = sections[-1]
    assert last.parameter == "a.extra"
    assert TASK.sections_length == offset + 16 - 64
    group = index.Group(TASK.sections_length + 8, 100, bytes(32))
    with pytest.raises(FormatError, match="expected sections of"):
        index.unpack_task(index.pack_task(TASK), ROOT, "x", group=group, vectors=VECTORS)


def test_sections_in_another_order_are_refused():
    for record, unpack in [(TASK, unpack_task), (SHARED_PAIR, unpack_shared)]:
        assert unpack(index.pack_task(record)) == record
        turned = replace(record, entries=record.entries[::-1])
        with pytest.raises(
            FormatError, match=r"expected more than \d, got \d - at \$.entries\[1\]"
        ):
            unpack(index.pack_task(turned))


def test_entries_know_their_streams_and_extents():
    rows, entries, exact = TASK.entries
    assert rows.streams()[0] == rows.mask.bits
    assert len(rows.streams()) == 1 + 1 + 3 + 2
    assert rows.extent((16, 32)) == index.Extent(8, 32, 256)
    assert entries.extent((64, 64)) == index.Extent(64, 64, 100)
    assert exact.extent((40, 2, 4)) == index.Extent(40, 8, 320)
    assert exact.extent(()) == index.Extent(1, 1, 1)


@pytest.mark.parametrize(
    ("stream", "count", "packed"),
    [
        (Stream(index.FLOAT16, 0), 7, 14),
        (Stream(index.FLOAT32, 0), 7, 28),
        (Stream(index.SYMBOLS, 0, 2), 9, 2),
        (Stream(index.SYMBOLS, 0, 3), 10, 2),
        (Stream(index.SYMBOLS, 0, 15), 3, 2),
        (Stream(index.SYMBOLS, 0, 17), 3, 3),
        (Stream(index.UNSIGNED, 0, 5), 5, 4),
        (Stream(index.INTEGERS, 0, 8), 3, 24),
        (Stream(index.ELEMENTS, 0, 1), 3, 3),
        (Stream(index.SYMBOLS, 0, 3), 0, 0),
    ],
)
def test_packed_lengths(stream, count, packed):
    assert stream.packed(count) == packed


def set_at(path, value):
    """A change of the msgpack object at `path`."""

    def change(root):
        for step in path[:-1]:
            root = root[step]
        root[path[-1]] = value

    return change


FAULTS = [
    ("task", ["entries", 0, 5, 1, 1], "3", "expected int, got str - at $.entries[0].parts[1].rank"),
    ("task", ["entries", 0, 5, 1, 1], True, "expected int, got bool - at"),
    ("task", ["entries", 0, 5, 1, 1], 9, "expected 1..8, got 9 - at $.entries[0].parts[1].rank"),
    ("task", ["entries", 0, 0], 8, "expected 0..7, got 8 - at $.entries[0].parameter"),
    ("task", ["entries", 0, 0], 4, "expected a parameter of floats, got int64"),
    ("task", ["entries", 0, 1], math.nan, "expected a finite number, got nan - at"),
    ("task", ["entries", 0, 2], -1.0, "expected a number from 0, got -1.0"),
    ("task", ["entries", 0, 2], 1, "expected float, got int - at $.entries[0].error"),
    ("task", ["entries", 0, 4, 1], 0, "expected 1..16, got 0 - at $.entries[0].mask.kept"),
    ("task", ["entries", 0, 4, 2, 1], 3, "expected 1..2, got 3 - at $.entries[0].mask.bits.length"),
    ("task", ["entries", 0, 4, 2, 2], 2, "expected 1 bit, got 2 - at"),
    ("task", ["entries", 0, 5, 0, 1, 1], 0, "parts[0].coefficients.length"),
    ("task", ["entries", 0, 5, 0, 1, 0], 7, "expected a stream of kind (0, 1), got 7"),
    ("task", ["entries", 0, 5, 2, 2], 6, "expected 1..5, got 6 - at $.entries[0].parts[2].r"),
    ("task", ["entries", 0, 5, 2, 5, 1], 11, "expected 1..10, got 11 - at $.entries[0].parts[2]"),
    ("task", ["entries", 0, 5, 2, 5, 2], 6, "expected 5 bits, got 6"),
    ("task", ["entries", 0, 5], [], "expected 1..16 parts, got 0 - at $.entries[0].parts"),
    ("task", ["entries", 0, 5, 0, 0], 9, "expected a part of kind 1..8, got 9"),
    ("task", ["entries", 0, 6], 1, "expected the sum of the streams"),
    ("task", ["entries", 0, 7], 2**32, "expected 0..4294967295, got 4294967296"),
    ("task", ["entries", 2, 5, 0, 1, 2], 8, "expected integers of 4 bytes, got 8"),
    ("task", ["entries", 2, 5], [[8, [4, 1000, 4]], [4, 1.0, [4, 9, 1]]], "differences alone"),
    ("task", ["entries", 2, 5], [[7, [0, 2]]], "expected a parameter with a shared basis"),
    ("task", ["small", 0], 8, "expected that of its stream, 9, got 8 - at $.small.length"),
    ("task", ["small", 3], [], "expected at least one parameter, got none - at $.small.members"),
    ("task", ["small", 3, 1, 0], 0, "expected more than 0, got 0 - at $.small.members[1]"),
    ("task", ["missing"], [2], "expected every parameter once, got 2 twice"),
    ("task", ["missing"], [6, 6], "expected more than 6, got 6 - at $.missing[1]"),
    ("task", ["aliases"], [[5, 5]], "expected 0..4, got 5 - at $.aliases[0].of"),
    ("task", ["aliases"], [[5, 6]], "got 6 - at $.aliases[0]"),
    ("task", ["rows", 0, 0], 6, "got 6 - at $.rows[0]"),
    ("task", ["rows", 0, 0], 7, "expected a parameter with rows, got a single value"),
    ("task", ["rows", 0, 4, 2], 8, "expected 4, got 8 - at $.rows[0].values.size"),
    ("task", ["dtypes"], [[3, "float16"]], "other than the base model's, got float16"),
    ("task", ["dtypes"], [[3, "complex64"]], "got 'complex64' - at $.dtypes[0].dtype"),
    ("task", ["added", 0, 0], "a.bias", "nothing else speaks of, got 'a.bias' - at $.added[0]"),
    ("task", ["added", 0, 0], "a\x1b[2J", r"got 'a\x1b[2J' - at $.added[0].name"),
    ("task", ["added", 0, 2], [-1, -15], "expected 0..281474976710655, got -1"),
    ("task", ["added", 0, 2], [1] * 9, "expected at most 8 dimensions, got 9"),
    ("task", ["added", 0, 2], [2**32, 2**32], "expected at most 1099511627775 values"),
    ("task", ["digest"], b"short", "expected 32 bytes, got bytes - at $.digest"),
    ("task", ["metadata"], {"b": "1", "a": "2"}, "expected sorted keys, got others - at"),
    ("task", ["metadata", "a"], 1, "expected str, got int - at $.metadata[0]"),
    ("task", ["extra"], 1, "expected the keys added, aliases"),
    ("shared", ["missing"], [2], "expected nothing in the shared index"),
    ("shared", ["entries", 0, 5], [[7, [0, 2]]], "expected a parameter with a shared basis"),
    ("root", ["tasks", 1, 0], "cars", "expected a name other than 'Cars', got 'cars'"),
    ("root", ["tasks", 1, 0], "../x", "expected a task name, got '../x' - at $.tasks[1].name"),
    ("root", ["tasks", 0, 0], "e", "expected more than 'e', got 'dtd' - at $.tasks[1]"),
    ("root", ["tasks", 0, 1], 801, "expected a multiple of 8, got 801"),
    ("root", ["tasks", 0, 2], 0, "at $.tasks[0].index_length"),
    ("root", ["gram_length"], 8, "expected 0 or 12, got 8 - at $.gram_length"),
    (
        "root",
        ["gram_length"],
        0,
        "expected zeros where nothing is told of, got others - at $.gram_sha256",
    ),
    ("root", ["base_model", 1, 0], "a.bias", "expected more than"),
    ("root", ["base_model", 0, 3], "text", "expected 32 bytes, got str"),
    ("root", ["shared"], [8, 1], "expected an array of 3, got one of 2 - at $.shared"),
]


@pytest.mark.parametrize(("case", "path", "value", "message"), FAULTS)
def test_a_fault_is_named_with_its_place(case, path, value, message):
    record, pack, unpack = CASES[case]
    changed = raw(record, pack)
    set_at(path, value)(changed)
    with pytest.raises(FormatError) as caught:
        unpack(repack(changed))
    assert str(caught.value).startswith("bank.tvq: ")
    assert message in str(caught.value)


SPELLINGS = {
    "float64": lambda data: msgpack.packb(msgpack.unpackb(data)),
    "trailing byte": lambda data: data + b"\0",
    "cut": lambda data: data[:-1],
    "nothing": lambda data: b"",
    "nested": lambda data: b"\x91" * 100_000,
    "claims": lambda data: b"\xdd\xff\xff\xff\xff",
    "extension": lambda data: b"\xd4\x05\x00",
    "timestamp": lambda data: b"\xd6\xff\0\0\0\0",
    "bad text": lambda data: b"\x81\xa2\xff\xff\x01",
    "long text": lambda data: data.replace(b"\xa8metadata", b"\xd9\x08metadata"),
    "repeated key": lambda data: bytes([data[0] + 1]) + data[1:] + b"\xa8metadata\x80",
}


@each_case
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_are_refused(case, spelling):
    record, pack, unpack = CASES[case]
    data = SPELLINGS[spelling](pack(record))
    assert data != pack(record)
    with pytest.raises(FormatError, match=r"^bank\.tvq: "):
        unpack(data)


def test_a_message_shows_little_of_what_a_stranger_wrote():
    packed = msgpack.packb({"a" * 60000 + "\x1b[2J": 1})
    with pytest.raises(FormatError, match="another set, or order, around 'aaa") as caught:
        index.unpack_root(packed, "bank.tvq: root index")
    assert len(str(caught.value)) < 300


def test_a_flood_of_small_containers_is_refused(monkeypatch):
    monkeypatch.setattr(spelling, "CONTAINERS_MAX", 10_000)
    flood = b"\xdd\x00\x04\x00\x00" + (b"\xdc\x01\x00" + b"\x90" * 256) * 2**13
    for data in (flood, flood.replace(b"\x90", b"\x80")):
        with pytest.raises(FormatError, match="more than 10000 arrays and maps"):
            unpack_root(data)


def places(value, path=()):
    """The paths of all values inside a msgpack object."""
    steps = value if isinstance(value, dict) else range(len(value))
    for step in steps:
        yield (*path, step)
        if isinstance(value[step], list | dict):
            yield from places(value[step], (*path, step))


STRANGE = [
    *(None, True, 0, 1, -1, 2, 3, 7, 8, 2**31, 2**32, 2**48, 2**53, 2**63, 2**64 - 1),
    *(0.0, -0.0, 0.5, math.inf, -math.inf, math.nan, "", "a", "cars", "../x", "\u202e", "A\u0301"),
    *(b"", b"d" * 32, [], {}, [0, 1], [2, 1, 3], [[]], {"a": "b"}, {"a": 1}),
]


def mutate(value, source):
    """One random change somewhere in a msgpack object."""
    path = source.choice(list(places(value)))
    parent = value
    for step in path[:-1]:
        parent = parent[step]
    step, old = path[-1], parent[path[-1]]
    kind = source.randrange(6)
    if kind == 0 and isinstance(parent, list):
        del parent[step]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(step, copy.deepcopy(old))
    elif kind == 2 and isinstance(parent, list):
        source.shuffle(parent)
    elif kind == 3 and type(old) is int:
        parent[step] = max(-(2**63), min(2**64 - 1, old + source.choice([-8, -1, 1, 8])))
    else:
        parent[step] = copy.deepcopy(source.choice(STRANGE))


@each_case
def test_mutated_indexes_are_valid_or_refused(case):
    record, pack, unpack = CASES[case]
    data = pack(record)
    source = random.Random(20)
    refused = 0
    for _ in range(1200):
        value = msgpack.unpackb(data)
        for _ in range(source.choice([1, 1, 1, 2, 3])):
            mutate(value, source)
        changed = repack(value)
        try:
            assert pack(unpack(changed)) == changed
        except FormatError:
            refused += 1
    assert 900 < refused < 1200


@each_case
def test_every_cut_and_every_flipped_bit_is_refused_or_means_something_else(case):
    record, pack, unpack = CASES[case]
    data = pack(record)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            unpack(data[:length])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            changed = unpack(bytes(flipped))
        except FormatError:
            continue
        assert changed != record
        assert pack(changed) == flipped


@given(st.binary(max_size=300))
def test_noise_is_refused(data):
    for _, _, unpack in CASES.values():
        with pytest.raises(FormatError):
            unpack(data)


@given(st.text(max_size=20))
def test_metadata_is_any_text(text):
    root = replace(ROOT, metadata={"zeta": text, "alpha": ""})
    assert unpack_root(index.pack_root(root)) == root


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_are_kept_as_float32(number):
    small = replace(TASK.small, members=(index.SmallMember(7, 1.0, 1.0, number, -number),))
    small = replace(small, length=1, symbols=Stream(index.SYMBOLS, 1, 15))
    task = replace(TASK, small=small)
    assert unpack_task(index.pack_task(task)) == task
    assert index.single(number) == number


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e39])
def test_a_number_beyond_float32_is_not_written(number):
    with pytest.raises(ValueError, match="finite in float32"):
        index.single(number)
    tasks = (replace(ROOT.tasks[0], norm=number),)
    with pytest.raises(ValueError, match="finite in float32"):
        index.pack_root(replace(ROOT, tasks=tasks, gram_length=0))


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "/x", "C:\\x", "CON", "con.txt", "LPT1", "a/b", "-a", "ä", "a" * 129, "a\n"],
)
def test_task_names_that_are_no_safe_file_names(name):
    assert not index.valid_task_name(name)


@pytest.mark.parametrize("name", ["a", "CONcert", "task-1_v.2", "0", "a" * 128])
def test_task_names_that_are(name):
    assert index.valid_task_name(name)


@pytest.mark.parametrize("name", ["", "a\n", "\x1b[2J", "a\u202eb", "A\u0301", "a" * 513, "\u2028"])
def test_parameter_names_that_a_terminal_must_not_see(name):
    assert not index.valid_parameter_name(name)


def test_parameter_names_that_are_fine():
    assert index.valid_parameter_name("model.layers.0.mlp gate/ä:weight")


def test_reading_an_index_takes_time_in_proportion():
    """Of eight times the entries less than 24 times as much; a quadratic search would take 64."""
    assert seconds_to_read(4000) < 24 * seconds_to_read(500)


def seconds_to_read(count):
    parameters = tuple(
        index.BaseParameter(f"layer.{number:04}", "float32", (768, 768), bytes(32), 0)
        for number in range(count)
    )
    factors = index.Factors(9, Stream(2, 900, 15), Stream(2, 900, 15), Stream(0, 18))
    rest = index.RotatedLargest(14, 6, 0.5, Stream(0, 72), Stream(3, 1000, 7))
    entries = tuple(entry(number, factors, rest) for number in range(count))
    data = index.pack_task(index.TaskIndex(digest=bytes(32), entries=entries))
    best = math.inf
    for _ in range(5):
        started = time.process_time()
        index.unpack_task(data, parameters, "large")
        best = min(best, time.process_time() - started)
    return best
