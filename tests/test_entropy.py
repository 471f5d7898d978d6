"""Symbols, integers and elements become the bytes that the format says, and come back."""

import os

import numpy as np
import pytest
import zstandard
from by_hand import symbols_by_hand
from hypothesis import given
from hypothesis import strategies as st

from tvcodec.errors import FormatError
from tvcodec.file import entropy

WIDTHS = (1, 2, 4, 8)
symbols_of = st.integers(2, 256).flatmap(
    lambda alphabet: st.tuples(st.just(alphabet), st.lists(st.integers(0, alphabet - 1)))
)
integers_of = st.sampled_from(WIDTHS).flatmap(
    lambda width: st.tuples(
        st.just(width),
        st.lists(st.integers(-(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1)),
    )
)


def test_as_many_symbols_as_fit_a_byte() -> None:
    counts = {2: 8, 3: 5, 4: 4, 5: 3, 6: 3, 7: 2, 16: 2, 17: 1, 256: 1}
    assert {size: entropy.symbols_per_byte(size) for size in counts} == counts


def test_the_first_symbol_is_the_lowest_digit() -> None:
    packed = entropy.pack_symbols(np.array([1, 2, 0, 1, 2, 2], np.uint8), 3)
    assert packed.tolist() == [1 + 2 * 3 + 0 * 9 + 1 * 27 + 2 * 81, 2]


@given(symbols_of)
def test_symbols_are_digits(drawn: tuple[int, list[int]]) -> None:
    alphabet, symbols = drawn
    packed = entropy.pack_symbols(np.array(symbols, np.uint8), alphabet)
    assert len(packed) == -(-len(symbols) // entropy.symbols_per_byte(alphabet))
    assert symbols_by_hand(packed.tobytes(), alphabet, len(symbols)).tolist() == symbols
    assert entropy.unpack_symbols(packed, alphabet, len(symbols)).tolist() == symbols


@pytest.mark.parametrize("alphabet", [3, 5, 6, 7, 15, 17, 255])
def test_a_byte_that_is_no_symbols_is_refused(alphabet: int) -> None:
    per_byte = entropy.symbols_per_byte(alphabet)
    most = alphabet**per_byte
    assert entropy.unpack_symbols(np.array([most - 1], np.uint8), alphabet, per_byte).size
    with pytest.raises(FormatError, match=f"is {most}, below {most} expected"):
        entropy.unpack_symbols(np.array([most], np.uint8), alphabet, per_byte)


def test_the_rest_of_the_last_byte_is_zero() -> None:
    with pytest.raises(FormatError, match="not filled with zeros"):
        entropy.unpack_symbols(np.array([0, 27], np.uint8), 3, 8)
    with pytest.raises(FormatError, match="not filled with zeros"):
        entropy.unpack_bits(np.array([0, 0x40], np.uint8), 7, 2)


@given(
    st.integers(1, 32).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 2**n - 1))))
)
def test_bits_follow_each_other_lowest_first(drawn: tuple[int, list[int]]) -> None:
    width, values = drawn
    packed = entropy.pack_bits(np.array(values, np.uint32), width)
    number = sum(value << width * at for at, value in enumerate(values))
    assert packed.tobytes() == number.to_bytes(-(-width * len(values) // 8), "little")
    assert entropy.unpack_bits(packed, width, len(values)).tolist() == values


@given(integers_of)
def test_planes_hold_the_lowest_bytes_first(drawn: tuple[int, list[int]]) -> None:
    width, values = drawn
    elements = np.array(values, f"<i{width}")
    packed = entropy.pack_planes(elements)
    whole = [value.to_bytes(width, "little", signed=True) for value in values]
    assert packed.tobytes() == bytes(one[plane] for plane in range(width) for one in whole)
    assert entropy.unpack_planes(packed, f"<i{width}").tolist() == values


@given(integers_of)
def test_zigzag_folds_signs(drawn: tuple[int, list[int]]) -> None:
    width, values = drawn
    folded = entropy.zigzag(np.array(values, f"i{width}"))
    assert folded.dtype == np.dtype(f"u{width}")
    assert folded.tolist() == [2 * n if n >= 0 else -2 * n - 1 for n in values]
    assert entropy.unzigzag(folded).tolist() == values


@pytest.mark.parametrize("width", WIDTHS)
def test_zigzag_of_the_ends(width: int) -> None:
    least = -(2 ** (8 * width - 1))
    folded = entropy.zigzag(np.array([least, -least - 1, 0, -1], f"i{width}"))
    assert folded.tolist() == [2 ** (8 * width) - 1, 2 ** (8 * width) - 2, 0, 1]
    assert entropy.unzigzag(folded).tolist() == [least, -least - 1, 0, -1]


@given(st.binary(max_size=300), st.integers(1, 5), st.integers(7, 100))
def test_frames_come_back(piece: bytes, times: int, frame: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entropy, "FRAME", frame)
        raw = np.frombuffer(piece * times, np.uint8)
        stored = entropy.compress(raw)
        assert len(stored) <= len(raw)
        assert entropy.decompress(stored, len(raw)).tobytes() == raw.tobytes()


def test_frames_hold_no_more_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy, "FRAME", 1000)
    stored = entropy.compress(np.zeros(2500, np.uint8))
    sizes, rest = [], stored
    while rest:
        decoder = zstandard.ZstdDecompressor().decompressobj()
        sizes.append(len(decoder.decompress(rest)))
        rest = decoder.unused_data
    assert sizes == [1000, 1000, 500]


def test_damaged_frames_of_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy, "FRAME", 1000)
    stored = entropy.compress(np.zeros(2500, np.uint8))
    first = entropy.compress(np.zeros(1000, np.uint8))
    for data in (stored[:-1], stored[:-4], first, first + stored[: len(first) - 1], stored + b"x"):
        with pytest.raises(FormatError):
            entropy.decompress(data, 2500)


def test_what_does_not_shrink_is_stored_as_it_is() -> None:
    noise = os.urandom(1000)
    assert entropy.compress(np.frombuffer(noise, np.uint8)) == noise
    assert len(entropy.compress(np.zeros(1000, np.uint8))) < 50


def test_damaged_frames_are_refused() -> None:
    stored = entropy.compress(np.zeros(1000, np.uint8))
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1000))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"skip!"
    bad = [stored[:-1], stored + b"x", stored + stored, b"", b"x" * 20, checked, unsized]
    for data in [*bad, skippable + stored, stored + skippable]:
        with pytest.raises(FormatError):
            entropy.decompress(data, 1000)
    for length in (999, 1001, 2000):
        with pytest.raises(FormatError):
            entropy.decompress(stored, length)


def test_a_frame_cannot_ask_for_more_than_the_index_says() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 24))
    assert len(bomb) < 5000
    with pytest.raises(FormatError, match="claims 16777216 bytes, 100 expected"):
        entropy.decompress(bomb, 100)
