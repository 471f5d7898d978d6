"""Hostile files, kills, full disks and power cuts end well: some of the cases of tools/fuzz."""

import json
import re
from pathlib import Path

import children
import pytest
import torch
from faults import gate, oplog
from faults.anatomy import taken_apart
from faults.comparison import compared
from faults.crash import can_mount
from faults.mutations import mutated
from faults.outcome import VECTORS, everything, outcome
from run_faults import KINDS, MEMORY, TABLE

from tvcodec.decoding.decoder import Bank
from tvcodec.errors import FormatError, TvqError
from tvcodec.file.memory import granted

LEAST = {  # cases that a quick run has
    "rules": 400,
    "flips": 10_000,
    "cuts": 2_000,
    "noise": 300,
    "mutations": 300,
    "claims": 15,
    "checkpoints": 10,
    "gate": 15,
    "kills": 25,
    "steps": 30,
    "sizes": 20,
    "full": 15,
    "reads": 40,
    "calls": 25,
    "power": 4_000,
    "control": 40,
}
SMALLEST = VECTORS / "y_smallest.tvq"
SOUND = json.loads((VECTORS / "expected.json").read_text())["vectors"]


@pytest.fixture(scope="module")
def rows():
    result = children.run("import run_faults; run_faults.main()", "--quick", "--json")
    assert result.returncode == 0, result.stderr
    return {row["kind"]: row for row in json.loads(result.stdout)}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_goes_wrong(rows, kind, tmp_path):
    assert rows[kind]["wrong"] == []
    least = 0 if kind == "full" and not can_mount(tmp_path) else LEAST[kind]
    assert rows[kind]["cases"] >= least


def test_hostile_files_have_little_memory(rows):
    limited = {kind: row["memory"] for kind, row in rows.items() if KINDS[kind].capped}
    assert len(limited) == 7
    assert all(memory < 1.1 * MEMORY for memory in limited.values()), limited


def test_hostile_files_are_refused_and_not_just_read(rows):
    for kind in ("flips", "cuts"):
        # reading one task of several does not see what happens to the others
        assert 0.9 * rows[kind]["cases"] < rows[kind]["refused"]
    for kind in ("noise", "claims", "checkpoints"):
        assert rows[kind]["refused"] == rows[kind]["cases"]
    assert 0 < rows["mutations"]["refused"] < rows["mutations"]["cases"]


def test_programs_are_really_interrupted(rows):
    for kind in ("kills", "sizes", "reads"):
        assert 0.4 * rows[kind]["cases"] < rows[kind]["refused"] < rows[kind]["cases"]


def test_the_published_table_has_every_kind_and_nothing_wrong():
    lines = re.findall(
        r"^\| .* \| ([\d,]+) \| (\d+) \| .* \| `--only (\w+)` \|$", TABLE.read_text(), re.M
    )
    assert [kind for _, _, kind in lines] == list(KINDS)
    for cases, wrong, kind in lines:
        assert int(cases.replace(",", "")) >= LEAST[kind]
        assert wrong == "0"


# The tools themselves


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ValueError("x"), "ValueError: x"),
        (RuntimeError("x"), "RuntimeError: x"),
        (MemoryError(), "MemoryError: "),
        (FormatError("\x1b[2J"), "a message that commands terminals: '\\x1b[2J'"),
        (TvqError("a plain one", hint="with a hint"), None),
    ],
)
def test_only_a_printable_error_of_ours_is_right(error, problem):
    def read(path):
        raise error

    assert outcome(read, SMALLEST).problem == problem


def test_a_reading_that_takes_long_is_wrong(monkeypatch):
    monkeypatch.setattr("faults.outcome.MOST_SECONDS", 0.0)
    assert outcome(everything, SMALLEST).problem == "took 0.0 s"


def test_readers_that_differ_are_noticed(monkeypatch):
    assert compared(SMALLEST).problem is None
    monkeypatch.setattr("faults.comparison.reader.centred", lambda stream, values: values)
    assert compared(SMALLEST).problem == "other values of 'l'"
    monkeypatch.setattr("faults.comparison.reader.END_MAGIC", b"another.")
    assert compared(SMALLEST).problem.startswith("read in spite of R5")


def test_a_fine_tune_that_differs_is_noticed(monkeypatch):
    paths = [path for path in sorted(VECTORS.glob("y_*.tvq")) if path.name != "y_frames.tvq"]
    known = [path for path in paths if SOUND[path.name]["base"]]
    decode = Bank.decode

    def zeros(bank, *values):
        return {name: tensor.mul(0) for name, tensor in decode(bank, *values).items()}

    monkeypatch.setattr(Bank, "decode", zeros)
    silent = [path.stem for path in known if compared(path).problem is None]
    assert len(known) > 40
    assert silent == ["y_empty"]


@pytest.mark.parametrize("path", sorted(VECTORS.glob("y_*.tvq")), ids=lambda path: path.stem)
def test_a_file_that_was_taken_apart_is_put_together_again(path):
    assert taken_apart(path.read_bytes()).assembled() == path.read_bytes()


def test_mutations_are_repeatable_and_many():
    data = (VECTORS / "y_all_parts.tvq").read_bytes()
    files = [mutated(data, seed) for seed in range(50)]
    assert files == [mutated(data, seed) for seed in range(50)]
    assert len(set(files)) > 40


def test_the_gate_finds_all_kinds_of_checks():
    keys = {place.key.split(": ")[0] for place in gate.places()}
    kinds = {key.split(" ", 1)[1] for key in keys}
    assert {"if", "condition 0", "condition 1", "call", "most", "least", "type"} <= kinds
    assert len(list(gate.places())) > 200
    assert gate.GUARDS.keys() <= {place.key for place in gate.places()}


def test_a_check_that_no_file_proves_is_noticed(monkeypatch):
    monkeypatch.setattr(gate, "cases", lambda: {"one": gate.Case(lambda: gate.Archive(SMALLEST))})
    monkeypatch.setattr(gate, "places", lambda: iter(list(PLACES)[:2]))
    monkeypatch.setattr(gate, "GUARDS", {})
    tally = gate.survivors(Path(), 1)
    assert [line.split(": ")[-1] for line in tally.wrong] == ["no file proves it"] * 2


PLACES = list(gate.places())


def test_a_cut_may_lose_what_was_not_synced():
    disk = oplog.Disk.of({"old": b"one"})
    for step in (
        oplog.Step("create", ("new",), 5),
        oplog.Step("write", file=5, data=b"data"),
        oplog.Step("os.rename", ("new", "old")),
    ):
        disk.take(step)
    seen = {tree.get("old") for tree in disk.cuts()}
    assert seen == {b"one", b"", b"da", bytes(4), b"data"}
    assert disk.whole() == {"old": b"data"}


# What tvcodec makes of too large a claim


def test_a_claim_beyond_the_machine_is_refused_at_once():
    message = "parameter 'w': expected memory for 1152921504606846976 bytes"
    with pytest.raises(TvqError, match=message), granted(1 << 60, "parameter 'w'"):
        raise AssertionError


@pytest.mark.parametrize("allocate", [lambda: torch.zeros(1 << 59), lambda: bytearray(1 << 62)])
def test_an_allocation_that_fails_has_a_name(allocate):
    with (
        pytest.raises(TvqError, match="parameter 'w': expected memory"),
        granted(8, "parameter 'w'"),
    ):
        allocate()


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="something else"), granted(8, "parameter 'w'"):
        raise RuntimeError("something else")
