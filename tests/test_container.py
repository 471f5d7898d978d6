"""A file appears whole or not at all, and is read as it was written or not at all."""

import hashlib
import os
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tvcodec.errors import FormatError, TvqError, UnsupportedError
from tvcodec.file.container import PROLOGUE, Container, Writer, aligned

SECTIONS = [b"first section", b"", b"eight by", bytes(range(40))]
ROOT = b"the root index"


def write(path, sections=SECTIONS, root=ROOT, **options):
    """A file of one group; what the writer said of each section, and the root digest."""
    with Writer(path, **options) as writer:
        places = [(writer.offset, *writer.put(data)) for data in sections]
        return places, writer.close(root)


class Memory:
    """A file's bytes that come from elsewhere than a file."""

    def __init__(self, data):
        self.data, self.size, self.asked, self.closed = bytes(data), len(data), 0, False

    def read_at(self, offset, length):
        self.asked += length
        return self.data[offset : offset + length]

    def prefetch(self, places):
        pass

    def close(self):
        self.closed = True


def read_all(data):
    """Everything in the file of `write`, read and checked."""
    with Container("bank.tvq", source=Memory(data)) as container:
        offset, sections = 64, []
        for data in SECTIONS:
            sections.append(container.read(offset, len(data), zlib.crc32(data), "section"))
            offset += aligned(len(data))
        return container.root, sections


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bank.tvq"


def test_what_was_put_is_read(path):
    places, digest = write(path)
    with Container(path) as container:
        for data, (offset, length, crc) in zip(SECTIONS, places, strict=True):
            assert (length, crc) == (len(data), zlib.crc32(data))
            assert container.read(offset, length, crc, "section") == data
        assert container.root == ROOT
        assert container.root_digest == digest
        assert container.size == path.stat().st_size
        assert container.root_offset == sum(aligned(len(data)) for data in SECTIONS) + 64


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(sections=st.lists(st.binary(max_size=50)), root=st.binary(min_size=1, max_size=100))
def test_any_sections_survive(path, sections, root):
    places, _ = write(path, sections, root, force=True)
    with Container(path) as container:
        assert [container.read(*place, "section") for place in places] == sections
        assert container.root == root


def test_the_file_is_laid_out_as_documented(path):
    _, digest = write(path, [b"section"], b"root")
    prologue = b"\x89TVQ\r\n\x1a\n" + struct.pack("<HHI", 1, 0, 0) + bytes(48)
    trailer = struct.pack("<QQQ", 72, 4, 152) + hashlib.sha256(prologue + b"root").digest()
    trailer += struct.pack("<II", zlib.crc32(trailer), 0) + b"TVQ1END\n"
    assert path.read_bytes() == prologue + b"section\0" + b"root\0\0\0\0" + trailer
    assert digest == trailer[24:56]


def test_group_digests_cover_padded_sections_and_no_index(path):
    with Writer(path) as writer:
        writer.put(b"one")
        writer.put(b"two")
        first = writer.end_group()
        assert writer.put_index(b"index") == (5, hashlib.sha256(b"index").digest())
        writer.put(b"three")
        second = writer.end_group()
        writer.close(ROOT)
    assert first == hashlib.sha256(b"one\0\0\0\0\0two\0\0\0\0\0").digest()
    assert second == hashlib.sha256(b"three\0\0\0").digest()
    with Container(path) as container:
        container.verify(64, 16, first, "task 'cars'")
        container.verify(88, 8, second, "task 'dtd'")
        index = hashlib.sha256(b"index").digest()
        assert container.read_apart(80, 5, index, "index") == b"index"
        with pytest.raises(FormatError, match="task 'dtd': checksum mismatch"):
            container.verify(88, 8, first, "task 'dtd'")
        with pytest.raises(FormatError, match="index: checksum mismatch"):
            container.read_apart(80, 5, first, "index")


def test_large_groups_are_verified_piece_by_piece(path):
    data = os.urandom(3 << 20)
    with Writer(path) as writer:
        writer.put(data + b"!")
        digest = writer.end_group()
        writer.close(ROOT)
    with Container(path) as container:
        container.verify(64, len(data) + 8, digest, "task")
    assert digest == hashlib.sha256(data + b"!" + bytes(7)).digest()


def test_every_flipped_bit_is_found(path):
    write(path)
    data = path.read_bytes()
    assert read_all(data) == (ROOT, SECTIONS)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TvqError):
            read_all(flipped)


def test_every_cut_and_every_addition_is_found(path):
    write(path)
    data = path.read_bytes()
    changes = [data[:length] for length in range(len(data))]
    changes += [data + bytes(more) for more in range(1, 100)]
    changes += [bytes(more) + data for more in range(1, 100)]
    changes += [data[:at] + bytes(8) + data[at:] for at in range(0, len(data), 8)]
    changes += [data[:at] + data[at + 8 :] for at in range(0, len(data), 8)]
    changes += [data + data]
    for change in changes:
        with pytest.raises(TvqError):
            read_all(change)


def sealed(offset, length, size, root=ROOT, prologue=PROLOGUE, body=None):
    """A file whose trailer says what it is told, with all checksums right."""
    body = ROOT + bytes(aligned(len(ROOT)) - len(ROOT)) if body is None else body
    fields = struct.pack("<QQQ", offset, length, size) + hashlib.sha256(prologue + root).digest()
    return prologue + body + fields + struct.pack("<II", zlib.crc32(fields), 0) + b"TVQ1END\n"


@pytest.mark.parametrize(
    "data",
    [
        sealed(64, 14, 153),
        sealed(64, 13, 152, root=ROOT[:13]),
        sealed(65, 14, 152),
        sealed(64, 0, 152, root=b""),
        sealed(2**64 - 8, 14, 152),
        sealed(64, 2**64 - 1, 152),
        sealed(64, 14, 152, body=ROOT + b"\0\1"),
        sealed(64, 14, 168, body=ROOT + bytes(18)),
        sealed(64, 14, 152, prologue=PROLOGUE[:63] + b"\1"),
    ],
)
def test_a_lying_trailer_with_right_checksums_is_refused(path, data):
    path.write_bytes(sealed(64, 14, 152))
    assert Container(path).root == ROOT
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"bank\.tvq: (file|root index|prologue): "):
        Container(path)


def test_a_damaged_section_is_named(path):
    places, _ = write(path)
    data = bytearray(path.read_bytes())
    data[64] ^= 1
    path.write_bytes(data)
    with Container(path) as container:
        with pytest.raises(FormatError) as caught:
            container.read(*places[0], "task 'cars', parameter 'x'")
        assert str(caught.value) == f"{path}: task 'cars', parameter 'x': checksum mismatch"
        assert "fetch" in caught.value.hint
        assert container.read(*places[3], "task 'dtd'") == SECTIONS[3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got an empty file"),
        (b"PK\x03\x04rest of a zip", "got a zip archive"),
        (struct.pack("<Q", 300) + b'{"a":1}', "got a .safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got a git-lfs pointer"),
        (PROLOGUE.replace(b"\r\n", b"\n"), "damaged as if it were text"),
        (b"hello", "got something else"),
        (PROLOGUE[:20], "expected 64 bytes, got 20"),
        (PROLOGUE, "expected 136 bytes or more, got 64"),
    ],
)
def test_files_of_other_kinds_are_recognised(path, data, message):
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        Container(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("at", "message"), [(8, "version 1, got 2"), (15, "features 0x1000000")])
def test_files_from_the_future_ask_for_an_upgrade(path, at, message):
    prologue = bytearray(PROLOGUE)
    prologue[at] += 1
    path.write_bytes(sealed(64, 14, 152, prologue=bytes(prologue)))
    with pytest.raises(UnsupportedError, match=message) as caught:
        Container(path)
    assert "--upgrade" in caught.value.hint


def test_a_newer_minor_version_is_read(path):
    prologue = PROLOGUE[:10] + b"\7" + PROLOGUE[11:]
    path.write_bytes(sealed(64, 14, 152, prologue=prologue))
    assert Container(path).root == ROOT


def test_a_pinned_root_must_match(path):
    _, digest = write(path)
    assert Container(path, expected_root=digest.hex().upper()).root == ROOT
    other = hashlib.sha256(b"").hexdigest()
    with pytest.raises(FormatError, match=f"expected root {other}, got {digest.hex()}"):
        Container(path, expected_root=other)


def test_directories_pipes_and_missing_files(tmp_path):
    with pytest.raises(FormatError, match="got a directory"):
        Container(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="got a device or pipe"):
        Container(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        Container(tmp_path / "none.tvq")


def test_no_descriptor_is_left_open(path):
    before = len(os.listdir("/proc/self/fd"))
    write(path)
    with Container(path):
        pass
    path.with_name("bad.tvq").write_bytes(b"bad")
    with pytest.raises(FormatError):
        Container(path.with_name("bad.tvq"))
    with pytest.raises(TvqError):
        write(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_bytes_may_come_from_elsewhere(path):
    write(path)
    memory = Memory(path.read_bytes())
    with Container("https://example.org/bank.tvq", source=memory) as container:
        assert container.read(64, 13, zlib.crc32(SECTIONS[0]), "section") == SECTIONS[0]
        assert memory.asked == 64 + 72 + 16 + 16
    assert memory.closed


def test_a_reader_keeps_its_file_while_another_replaces_it(path):
    places, _ = write(path)
    with Container(path) as container:
        write(path, [b"other"], b"other", force=True)
        assert container.read(*places[0], "section") == SECTIONS[0]
    assert Container(path).root == b"other"


def test_a_file_cut_under_a_reader_is_an_error_not_a_signal(path):
    places, _ = write(path)
    with Container(path) as container:
        os.truncate(path, 70)
        with pytest.raises(FormatError, match="expected 16 bytes at 64, got 6"):
            container.read(*places[0], "section")
