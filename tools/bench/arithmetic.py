"""What an arithmetic decoder for codes of factors would take, in numpy: milliseconds and bytes.

usage: arithmetic.py BANK [--models DIR] [--lanes "256,1024,4096,16384"] [--repeat N] [--json FILE]

Codes of the first task's factors are coded by interleaved rANS (Duda 2013; Giesen 2014): as many
states as lanes, of 32 bits, that give and take words of 16 bits, each step all lanes at once.
Probabilities are Gaussian, of one width for each component, as code_lengths.py counts them.

codes    one by one, by tables of 2^12
packed   bytes of as many codes as fit one, by tables of 2^14

All codes of a task are one stream, of which no parameter can be read alone; `each parameter` adds
what final states take when every one has its own. Times are those of one thread, `tables` once for
each task. Beside them, reading and unpacking what is stored and, with the models that BANK was made
of, the whole decode.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import code_lengths
import numpy as np
import numpy.typing as npt
from factor_streams import Stream, sides
from tabulate import tabulate

import tvcodec
from tvcodec.decoding.stored_task import load_entry
from tvcodec.file import entropy
from tvcodec.file.index import Entry

LOW = 1 << 16  # of a state
Words = npt.NDArray[np.uint16]
Numbers = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Tables:
    """Frequencies of 2^bits and their sums, [tables, alphabet] with zeros at the end; `slots` has
    less one of a frequency, the distance from its start and the symbol, for each slot of each."""

    bits: int
    counts: Numbers
    starts: Numbers

    @classmethod
    def of(cls, odds: npt.NDArray[np.float64], bits: int) -> Tables:
        """Of rows of odds, where those that are zero never occur."""
        possible = odds > 0
        room = (1 << bits) - possible.sum(1, keepdims=True)
        counts = np.floor(odds / odds.sum(1, keepdims=True) * room).astype(np.int64) + possible
        counts[np.arange(len(odds)), odds.argmax(1)] += (1 << bits) - counts.sum(1)
        starts = np.cumsum(counts, 1) - counts
        return cls(bits, counts.astype(np.uint32), starts.astype(np.uint32))

    def slots(self) -> tuple[Numbers, npt.NDArray[np.uint8]]:
        """What decoding looks up: frequency - 1 and distance from its start; and the symbol."""
        times = self.counts.ravel()
        number = np.tile(np.arange(self.counts.shape[1], dtype=np.uint8), len(self.counts))
        start = np.arange(len(self.counts), dtype=np.uint32)[:, None] << self.bits
        where = np.arange(times.sum(), dtype=np.uint32)
        distance = where - np.repeat((self.starts + start).ravel(), times)
        return np.repeat(times - 1, times) << np.uint32(16) | distance, np.repeat(number, times)


def encoded(symbols: npt.NDArray[np.uint8], of: Numbers, tables: Tables, lanes: int) -> Words:
    """Words of `symbols`, each by its table `of`: the states, and what steps took from them."""
    steps = -(-symbols.size // lanes)
    states = np.full(lanes, LOW, np.uint64)
    words = []
    for step in range(steps - 1, -1, -1):
        at = slice(step * lanes, (step + 1) * lanes)
        some = symbols[at]
        count = tables.counts[of[at], some].astype(np.uint64)
        start = tables.starts[of[at], some].astype(np.uint64)
        active = states[: some.size]
        full = active >= count << np.uint64(32 - tables.bits)
        words.append((active[full] & np.uint64(LOW - 1)).astype(np.uint16))
        active[full] >>= np.uint64(16)
        active[:] = (active // count << np.uint64(tables.bits)) + active % count + start
    ends = states.astype("<u4").view(np.uint16)
    return np.concatenate([ends, *reversed(words)])


def decoded(
    words: Words, of: Numbers, slots: Numbers, names: npt.NDArray[np.uint8], bits: int, lanes: int
) -> npt.NDArray[np.uint8]:
    """The symbols, one for each table `of`."""
    states = words[: 2 * lanes].view(np.uint32).copy()
    taken, mask, high = 2 * lanes, np.uint32((1 << bits) - 1), np.uint32(16)
    found = np.empty(of.size, np.uint32)
    for first in range(0, of.size, lanes):
        slot = found[first : first + lanes]
        active = states[: slot.size]
        np.bitwise_and(active, mask, out=slot)
        slot += of[first : first + lanes] << np.uint32(bits)
        entry = slots.take(slot)
        active >>= np.uint32(bits)
        active += active * (entry >> high)
        active += entry & np.uint32(LOW - 1)
        low = np.flatnonzero(active < LOW)
        end = taken + low.size
        active[low] = active[low] << high | words[taken:end]
        taken = end
    return names.take(found)


@dataclass(frozen=True)
class Job:
    """What one way codes: symbols with the number of each one's table, component by component."""

    symbols: npt.NDArray[np.uint8]
    each: Numbers  # table of each component
    lengths: npt.NDArray[np.int64]  # symbols of each component
    odds: npt.NDArray[np.float64]  # [tables, alphabet]
    bits: int


def jobs(streams: Sequence[Stream]) -> dict[str, Job]:
    """The same codes as symbols of their own, and as bytes of several."""
    alone: list[npt.NDArray[np.uint8]] = []
    together: list[npt.NDArray[np.uint8]] = []
    tables: dict[tuple[int, int], int] = {}
    each = []
    for stream in streams:
        widths = code_lengths.by_widths(stream, code_lengths.gauss).argmin(1)
        for row, width in zip(stream.codes, widths.tolist(), strict=True):
            each.append(tables.setdefault((stream.own, width), len(tables)))
            alone.append((row + stream.own // 2).astype(np.uint8))
            together.append(entropy.pack_symbols(alone[-1], stream.own))
    found = {}
    for name, rows, bits in (("codes", alone, 12), ("packed", together, 14)):
        odds = np.zeros((len(tables), 256))
        for (alphabet, width), number in tables.items():
            one = code_lengths.odds(alphabet // 2, code_lengths.gauss)[width]
            signed = np.concatenate([one[:0:-1] / 2, one[:1], one[1:] / 2])
            product = np.ones(1)
            for _ in range(entropy.symbols_per_byte(alphabet) if name == "packed" else 1):
                product = np.outer(signed, product).ravel()  # the first symbol least significant
            odds[number, : product.size] = product
        numbers, lengths = np.array(each, np.uint32), np.array([one.size for one in rows])
        found[name] = Job(np.concatenate(rows), numbers, lengths, odds, bits)
    return found


def measured(
    streams: Sequence[Stream], lanes: Sequence[int], repeat: int, parameters: int
) -> list[dict[str, object]]:
    """Bytes and milliseconds of each way."""
    stored = sum(stream.length for stream in streams)
    rows = []
    for name, job in jobs(streams).items():
        of = np.repeat(job.each, job.lengths)
        tables = Tables.of(job.odds, job.bits)
        looked_up = least(tables.slots, repeat)
        for count in lanes:
            size, decoding = coded(job, of, tables, count, repeat)
            row: dict[str, object] = {"way": name, "symbols": job.symbols.size, "lanes": count}
            row["bytes"] = size
            row["of stored, %"] = 100 * (size / stored - 1)
            apart = size + (parameters - 1) * 2 * count  # half of a state is not spent on symbols
            row["each parameter, %"] = 100 * (apart / stored - 1)
            row["ns a symbol"] = 1e6 * decoding / job.symbols.size
            row["ms"], row["tables, ms"] = decoding, looked_up
            rows.append(row)
    return rows


def coded(job: Job, of: Numbers, tables: Tables, lanes: int, repeat: int) -> tuple[int, float]:
    """Bytes, and milliseconds of decoding; AssertionError if symbols come back as others."""
    words = encoded(job.symbols, of, tables, lanes)
    slots, names = tables.slots()

    def back() -> npt.NDArray[np.uint8]:
        return decoded(words, of, slots, names, tables.bits, lanes)

    assert np.array_equal(back(), job.symbols), f"{lanes} lanes: other symbols"
    return words.nbytes + len(job.each), least(back, repeat)


def least(what: Callable[[], object], repeat: int) -> float:
    """Milliseconds of this thread, at best."""
    times = []
    for _ in range(repeat):
        start = time.thread_time()
        what()
        times.append(1e3 * (time.thread_time() - start))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bank", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--lanes", default="256,1024,4096,16384")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lanes = [int(count) for count in options.lanes.split(",")]
    found: dict[str, object] = {}
    with tvcodec.open(options.bank) as bank:
        task = bank.tasks[0]
        both_sides = list(sides(bank, [task]))
        if not both_sides:
            raise SystemExit(f"{options.bank}: expected factors in {task}, got none")
        found |= unpacked(bank, task, options.repeat)
        if options.models:
            found |= whole(bank, task, options.models / "base", options.repeat)
    streams = [stream for side in both_sides for stream in side]
    found["codes"] = sum(stream.codes.size for stream in streams)
    found["bytes of codes"] = sum(stream.length for stream in streams)
    ways = measured(streams, lanes, options.repeat, len(both_sides) // 2)
    print(tabulate(found.items(), floatfmt=",.0f", intfmt=","))
    print(tabulate(ways, headers="keys", floatfmt=",.1f", intfmt=","))
    if options.json:
        options.json.write_text(json.dumps({**found, "ways": ways}, indent=1) + "\n")


def unpacked(bank: tvcodec.Bank, task: str, repeat: int) -> dict[str, object]:
    """Milliseconds of reading and unpacking all sections of a task as they are."""
    entries = [one for one in bank.archive.sections(task) if isinstance(one[0], Entry)]

    def read() -> None:
        for entry, offset in entries:
            assert isinstance(entry, Entry)
            load_entry(bank.archive, task, entry, offset)

    return {"read and unpacked as it is, ms": least(read, repeat)}


def whole(bank: tvcodec.Bank, task: str, base: Path, repeat: int) -> dict[str, object]:
    """Milliseconds of decoding a task, base model checked before."""
    times = []
    for _ in range(repeat + 1):
        start, processors = time.perf_counter(), time.process_time()
        bank.decode(task, base).load()
        times.append((time.perf_counter() - start, time.process_time() - processors))
    walls, works = zip(*times[1:], strict=True)
    return {
        "decoded, ms": 1e3 * min(walls),
        "decoded, ms of processors": 1e3 * min(works),
    }


if __name__ == "__main__":
    main()
