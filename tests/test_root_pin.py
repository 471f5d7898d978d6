"""With a root digest from elsewhere, no byte is used that is not the right one."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file
from small_models import State, changed, normal

import tvcodec
from tvcodec.cli import main
from tvcodec.file import entropy
from tvcodec.file.archive import Archive

POLYNOMIAL = 0x104C11DB7  # of CRC-32: a multiple of it, added anywhere, does not show
BASE: State = {"a.weight": normal(0, 200, 150), "b.weight": normal(1, 90, 80)}
TUNES = {
    name: {key: changed(seed, "noise", value) for key, value in BASE.items()}
    for name, seed in (("ant", 10), ("bee", 20))
}


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "bank.tvq"
    tvcodec.encode(BASE, TUNES, path, recipe=tvcodec.QUALITIES["high"])
    return path


def tampered(bank: Path) -> str:
    """Changes bytes in the middle of a section of "ant" so that its CRC-32 stays; the root."""
    archive = Archive(bank)
    section, offset = max(archive.sections("ant"), key=lambda found: found[0].length)
    root, at = archive.container.root_digest.hex(), offset + section.length // 2
    archive.close()
    data = bytearray(bank.read_bytes())
    for bit in range(33):  # the highest power first, which is the lowest bit of the first byte
        data[at + bit // 8] ^= (POLYNOMIAL >> 32 - bit & 1) << bit % 8
    bank.write_bytes(data)
    return root


def test_what_passes_a_checksum_does_not_pass_a_pinned_root(
    bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, opened = tampered(bank), list[bytes]()
    decompress = entropy.decompress

    def watched(stored: Any, length: int) -> Any:
        opened.append(bytes(stored))
        return decompress(stored, length)

    monkeypatch.setattr(entropy, "decompress", watched)
    with tvcodec.open(bank, expected_root=root) as pinned:  # the indexes are as they were
        tau = pinned.task_vector("ant")
        for name in tau:
            with pytest.raises(tvcodec.FormatError, match="task 'ant': checksum mismatch"):
                tau[name]
        assert opened == []
        assert pinned.task_vector("bee")["a.weight"].shape == (200, 150)
    opened.clear()
    with tvcodec.open(bank) as trusting, suppress(tvcodec.FormatError):
        trusting.task_vector("ant")["a.weight"]  # which may or may not be zstd any more
    assert opened != []


def test_every_command_takes_a_pin(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(BASE, "base.safetensors")
    save_file(TUNES["bee"], "bee.safetensors")
    before, root = bank.read_bytes(), Archive(bank).container.root_digest.hex()
    model = ("--base-model", "base.safetensors", "-o")
    commands = [
        ("info", "bank.tvq"),
        ("verify", "bank.tvq"),
        ("decode", "bank.tvq", "ant", *model, "ant.safetensors"),
        ("merge", "bank.tvq", *model, "merged.safetensors"),
        ("remove", "bank.tvq", "ant", "-o", "less.tvq"),
        ("add", "bank.tvq", "base.safetensors", "cow=bee.safetensors", "-o", "more.tvq"),
    ]
    files = sorted(path.name for path in tmp_path.iterdir())
    for command in commands:
        refused = CliRunner().invoke(main, [*command, "--expect-root", "00" * 32])
        assert refused.exit_code == 1, refused.output
        assert f"expected root {'00' * 32}, got {root}" in refused.stderr
        assert "this is not the file that was pinned" in refused.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == files
    for command in commands:
        done = CliRunner().invoke(main, [*command, "--expect-root", root.upper()])
        assert done.exit_code == 0, done.output
    assert bank.read_bytes() == before
    for command in commands[2:4]:
        tampered(bank)
        refused = CliRunner().invoke(main, [*command, "--force", "--expect-root", root])
        assert refused.exit_code == 1, refused.output
        assert "task 'ant': checksum mismatch" in refused.stderr
        bank.write_bytes(before)
