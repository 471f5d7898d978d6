"""What a notebook shows, when tensors are read, and where they are."""

import pytest
import torch
from safetensors.torch import load_file
from small_models import normal

import tvcodec
from tvcodec import html
from tvcodec.file.index import Small

ABSENT = "cuda" if not torch.cuda.is_available() else "mps"
BASE = {"a.weight": normal(0, 90, 60), "b.weight": normal(1, 70, 80), "<b>bold</b>": normal(2, 9)}


@pytest.fixture
def written(tmp_path):
    """Path of a file with two tasks, and what was said of it."""
    tunes = {
        task: {name: value + normal(seed, *value.shape, scale=0.01) for name, value in BASE.items()}
        for task, seed in (("cars", 3), ("dtd", 4))
    }
    path = tmp_path / "<bank>&.tvq"
    return path, tvcodec.encode(BASE, tunes, path)


def test_tables_are_escaped_and_short():
    text = html.table("<i>", ("&", "n"), [(f"<script>{n}", n) for n in range(25)])
    assert text.startswith("<table><caption>&lt;i&gt;</caption><thead><tr><th>&amp;</th>")
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") == 20
    assert "... and 5 more" in text
    assert text.endswith("</tbody></table>")


def test_a_bank_shows_its_tasks(written):
    path, summary = written
    with tvcodec.open(path) as bank:
        assert repr(bank) == f"<tvcodec.Bank {path}: cars, dtd>"
        shown = bank._repr_html_()
    assert "&lt;bank&gt;&amp;.tvq" in shown
    assert "<bank>" not in shown
    for task in summary.tasks:
        assert f">{task.name}</td><td>{task.bytes:,}</td><td>{task.error:.1%}</td>" in shown


def test_a_summary_shows_its_tasks(written):
    _, summary = written
    shown = summary._repr_html_()
    assert "<bank>" not in shown
    for task in summary.tasks:
        assert f">{task.name}</td><td>{task.bits_per_parameter:.3f}</td>" in shown


def test_a_model_shows_its_parameters_and_how_it_was_made(written):
    with tvcodec.open(written[0]) as bank:
        merged = bank.merge(BASE, weights={"cars": 0.25, "dtd": 0.5})
        tau = bank.task_vector("cars")
    assert repr(merged).startswith("<tvcodec.Model of 3 parameters, 11,009 values: merge weighted,")
    assert 'weights {"cars": 0.25, "dtd": 0.5}' in repr(merged)
    assert repr(tau) == "<tvcodec.Model of 3 parameters, 11,009 values: task vector cars>"
    shown = merged._repr_html_()
    assert "&lt;b&gt;bold&lt;/b&gt;</td><td>float32</td><td>9</td>" in shown
    assert "<b>" not in shown
    assert "<td>90 x 60</td>" in shown


def test_a_merge_reads_no_section_before_a_tensor_is_asked_for(written):
    """Every section but that of small parameters is damaged, and the merge does not notice."""
    path, _ = written
    data = bytearray(path.read_bytes())
    with tvcodec.open(path) as bank:
        places = [(s, at) for task in bank.tasks for s, at in bank.archive.sections(task)]
    for section, at in places:
        if not isinstance(section, Small):
            data[at] ^= 1
    path.write_bytes(data)
    with tvcodec.open(path) as bank:
        merged = bank.merge(BASE, weights={"cars": 0.5, "dtd": 0.5})
        assert list(merged) == sorted(BASE)
        with pytest.raises(tvcodec.FormatError, match="checksum mismatch"):
            merged["a.weight"]
        assert merged["<b>bold</b>"].shape == (9,)


def test_tensors_come_on_the_device_asked_for(written, tmp_path):
    cpu = torch.device("cpu")
    with tvcodec.open(written[0]) as bank:
        for device in ("cpu", cpu):
            models = [
                bank.task_vector("cars", device=device),
                bank.decode("cars", BASE, device=device),
                bank.decode("cars", BASE, "a.*", device=device),
                bank.merge(BASE, device=device),
                bank.merge(None, task_vector=True, device=device),
            ]
            assert [model.device for model in models] == [cpu] * 5
            for model in models:
                assert model["a.weight"].device == cpu
            models[3].save(tmp_path / "merged.safetensors", force=True)
            saved = load_file(tmp_path / "merged.safetensors")
            assert all(torch.equal(saved[name], models[3][name]) for name in saved)


@pytest.mark.parametrize("device", [ABSENT, "nonsense", "meta", torch.device(ABSENT)])
def test_a_device_that_is_not_there_is_named_before_anything_is_read(written, device):
    with tvcodec.open(written[0]) as bank:
        for ask in (
            lambda: bank.task_vector("cars", "nowhere", device=device),
            lambda: bank.decode("cars", "nowhere", device=device),
            lambda: bank.merge("nowhere", device=device),
        ):
            with pytest.raises(tvcodec.TvqError, match=f"device '{device}': expected one that"):
                ask()
