"""What other programs read: tasks as LoRA adapters that peft loads, files as .safetensors."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from small_models import State, normal
from torch import Tensor

import tvcodec
from tvcodec.cli import main
from tvcodec.decoding.lora import Exported, export_adapter
from tvcodec.decoding.modules import target_modules
from tvcodec.file import carrier
from tvcodec.file.archive import Archive

# Of peft and transformers, about each other.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

FINE = tvcodec.Recipe(step=0.02)


def bert() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=60, n_positions=16, n_embd=96, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config).eval()


def low_rank(seed: int, tensor: Tensor, rank: int) -> Tensor:
    return normal(seed, len(tensor), rank, scale=0.05) @ normal(seed + 50, rank, tensor.shape[1])


@pytest.fixture
def bank(tmp_path: Path) -> Callable[..., tuple[Path, Path, State]]:
    """Encodes a fine-tune of a model: changes of rank 1 to 3 where a pattern matches; `also` is
    added to the parameters of those names."""

    def make(
        model: Any,
        pattern: str,
        also: dict[str, float] | None = None,
        recipe: tvcodec.Recipe = FINE,
        noise: float = 0.0,
    ) -> tuple[Path, Path, State]:
        base, path = tmp_path / "base", tmp_path / "bank.tvq"
        model.save_pretrained(base)
        state = load_file(base / "model.safetensors")
        tuned = dict(state)
        for seed, name in enumerate(sorted(state)):
            if re.fullmatch(pattern, name):
                tuned[name] = state[name] + low_rank(seed, state[name], 1 + seed % 3)
                tuned[name] += normal(seed, *state[name].shape, scale=noise)
        for name, scale in (also or {}).items():
            tuned[name] = tuned[name] + normal(7, *state[name].shape, scale=scale)
        tvcodec.encode(base, {"cars": tuned}, path, recipe=recipe)
        return base, path, state

    return make


def exported(path: Path, base: Path, **options: Any) -> Exported:
    with tvcodec.open(path) as opened:
        return export_adapter(opened, "cars", base, path.parent / "adapter", **options)


def task_vector(path: Path, base: Path) -> State:
    with tvcodec.open(path) as opened:
        return dict(opened.task_vector("cars", base))


def merged(model: Any, adapter: Path) -> State:
    """What peft makes of the model, with every tensor of the adapter in its place."""
    loaded = peft.PeftModel.from_pretrained(model, adapter)
    result = loaded.load_adapter(adapter, "again")
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora" in key or "again" in key]
    modules = {
        name
        for name, module in loaded.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    stored = load_file(adapter / "adapter_model.safetensors")
    assert modules == {n.removesuffix(".lora_A.weight") for n in stored if "lora_A" in n}
    return dict(loaded.merge_and_unload().state_dict())


def test_peft_computes_with_an_exported_adapter_what_the_task_computes(bank):
    base, path, state = bank(
        bert(), r".*(query|intermediate\.dense|layer\.1.*output\.dense)\.weight"
    )
    report = exported(path, base)
    assert report.lost < 1e-9
    assert report.modules == 6
    assert report.rank == 3
    tokens = torch.arange(24).view(2, 12)
    with tvcodec.open(path) as opened:
        wanted = bert()
        wanted.load_state_dict(dict(opened.decode("cars", base)))
    ours = peft.PeftModel.from_pretrained(bert(), report.path).eval()
    with torch.no_grad():
        before, now = bert()(tokens).logits, ours(tokens).logits
        torch.testing.assert_close(now, wanted(tokens).logits, rtol=0, atol=1e-5)
    assert (before - now).abs().max() > 1e-3
    tau = task_vector(path, base)
    for name, tensor in merged(bert(), Path(report.path)).items():
        expected = state[name] + tau[name] if name in tau else state[name]
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-5)


def test_transposed_layers_are_exported_as_peft_wants_them(bank):
    base, path, state = bank(gpt2(), r".*(c_attn|attn\.c_proj)\.weight")
    report = exported(path, base)
    assert report.modules == 4
    tau = task_vector(path, base)
    found = merged(gpt2(), Path(report.path))
    for name, delta in tau.items():
        torch.testing.assert_close(found[name], state[name] + delta, rtol=0, atol=1e-5)
    (base / "config.json").unlink()
    with pytest.raises(tvcodec.CheckpointError, match=r"expected a config\.json"):
        exported(path, base, force=True)


def test_what_the_adapter_leaves_out_is_what_is_reported(bank):
    """By kind, and in all: measured on what peft makes of it."""
    vector = "bert.encoder.layer.0.output.LayerNorm.bias"
    also = {vector: 0.3, "bert.embeddings.word_embeddings.weight": 0.02}
    base, path, state = bank(bert(), r".*(query|value)\.weight", also, noise=0.02)
    for rank in (2, 8):
        report = exported(path, base, rank=rank, force=True)
        tau = task_vector(path, base)
        found = merged(bert(), Path(report.path))
        energy = sum(float(t.square().sum()) for t in tau.values())
        missing = {n: state[n] + t - found[n] for n, t in tau.items()}
        lost = {n: float(t.square().sum()) / energy for n, t in missing.items()}
        assert report.lost == pytest.approx(sum(lost.values()), rel=1e-3)
        assert report.left_out["vectors"] == pytest.approx(lost[vector], rel=1e-3)
        assert report.left_out["embeddings"] == report.energy["embeddings"] > 0
        assert 0 < report.left_out["matrices"] < report.energy["matrices"]
        assert sum(report.energy.values()) == pytest.approx(1)
    # rank 8 of 96: the best there is
    name = "bert.encoder.layer.0.attention.self.query.weight"
    least = torch.linalg.svdvals(tau[name])[8:].square().sum()
    assert float(missing[name].square().sum()) == pytest.approx(float(least), rel=1e-3)


def test_a_rank_below_that_of_the_factors_keeps_the_strongest_directions(bank):
    base, path, state = bank(bert(), r".*(query|value)\.weight")
    report = exported(path, base, rank=1)
    assert report.rank == 1
    found = merged(bert(), Path(report.path))
    for name, delta in task_vector(path, base).items():
        sigma = torch.linalg.svdvals(delta)
        left = torch.linalg.matrix_norm(state[name] + delta - found[name])
        torch.testing.assert_close(left, sigma[1:].square().sum().sqrt(), rtol=1e-3, atol=1e-4)


def test_modules_may_be_saved_whole(bank):
    also = {
        "bert.encoder.layer.0.output.LayerNorm.bias": 0.3,
        "classifier.bias": 0.2,
        "classifier.weight": 0.2,
    }
    base, path, state = bank(bert(), r".*query\.weight", also)
    report = exported(path, base, modules_to_save=["classifier", "*.0.output.LayerNorm"])
    assert report.lost < 1e-6
    assert report.saved == ("bert.encoder.layer.0.output.LayerNorm", "classifier")
    found = merged(bert(), Path(report.path))
    for name, delta in task_vector(path, base).items():
        torch.testing.assert_close(found[name], state[name] + delta, rtol=0, atol=1e-5)
    with pytest.raises(tvcodec.TvqError, match=r"no module matches 'classifer'"):
        exported(path, base, modules_to_save=["classifer"], force=True)


def test_a_task_without_factors_needs_a_rank(bank):
    base, path, _ = bank(bert(), r"-", {"bert.pooler.dense.weight": 0.1})
    with pytest.raises(tvcodec.TvqError) as caught:
        exported(path, base)
    assert "--rank" in str(caught.value.hint)
    assert not (path.parent / "adapter").exists()
    assert exported(path, base, rank=48).lost < 0.3


def test_an_adapter_comes_back_as_it_went_in(bank, tmp_path):
    """Through a file and out again: the same product."""
    base, path, _ = bank(bert(), r".*(query|value)\.weight")
    report = exported(path, base)
    tvcodec.encode(base, {"cars": report.path}, tmp_path / "again.tvq", recipe=FINE)
    first, second = task_vector(path, base), task_vector(tmp_path / "again.tvq", base)
    assert first.keys() == second.keys()
    for name, delta in first.items():
        assert torch.linalg.norm(second[name] - delta) < 0.01 * torch.linalg.norm(delta)


def test_a_tied_matrix_that_the_adapter_leaves_alone_is_told_of(tmp_path):
    base = {"a.weight": normal(1, 64, 64)}
    base["b.weight"] = base["a.weight"].clone()
    tuned = low_rank(2, base["a.weight"], 2)
    tune = {name: tensor + tuned for name, tensor in base.items()}
    path = tmp_path / "bank.tvq"
    tvcodec.encode(base, {"cars": tune}, path, recipe=FINE)
    with tvcodec.open(path) as opened:
        written = export_adapter(opened, "cars", base, tmp_path / "adapter", rank=2)
    assert written.modules == 1
    assert written.notes == ["b.weight: tied to a.weight, which alone the adapter changes"]


def test_another_base_model_is_refused(bank, tmp_path):
    _, path, state = bank(bert(), r".*query\.weight")
    other = {name: value + 1 for name, value in state.items()}
    with tvcodec.open(path) as opened, pytest.raises(tvcodec.BaseModelMismatch):
        export_adapter(opened, "cars", other, tmp_path / "adapter")


def test_only_an_adapters_directory_is_replaced(bank):
    base, path, _ = bank(bert(), r".*query\.weight")
    adapter = Path(exported(path, base).path)
    with pytest.raises(tvcodec.TvqError, match="exists already"):
        exported(path, base)
    (adapter / "thesis.txt").write_text("x")
    with pytest.raises(tvcodec.TvqError, match=r"would delete thesis\.txt"):
        exported(path, base, force=True)
    with tvcodec.open(path) as opened, pytest.raises(tvcodec.TvqError, match="one within"):
        export_adapter(opened, "cars", base, base / "adapter")


def test_targets_are_those_modules_and_no_other():
    assert target_modules(["b.q", "a.q"], ["a.q.weight", "b.q.weight"]) == ["a.q", "b.q"]
    assert target_modules(["a.q"], ["a.q.weight", "c.a.q.weight"]) == r"a\.q"


def test_the_command_prints_what_is_left_out(bank, tmp_path):
    base, path, _ = bank(bert(), r".*query\.weight", {"classifier.bias": 0.1})
    arguments = ["export", str(path), "cars", "--base-model", str(base), "--format", "peft"]
    result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert re.search(r"^vectors +\S+ % +0\.\d+ %$", result.stdout, re.MULTILINE)
    assert "2 modules, rank" in result.stderr
    result = CliRunner().invoke(
        main, [*arguments, "-o", str(tmp_path / "out"), "--force", "--json"]
    )
    report = json.loads(result.stdout)
    assert report["lost"] == pytest.approx(sum(report["left_out"].values()))
    assert (
        CliRunner().invoke(main, ["export", str(path), "--format", "peft", "-o", "x"]).exit_code
        == 2
    )


# .safetensors that carries a file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Tasks with sections of every kind, and vectors that they share."""
    base = {"w": normal(0, 70, 80), "v": normal(1, 9), "n": torch.tensor([1, 2]), "x": normal(2, 6)}
    common = normal(3, 70, 80)
    tunes = {
        task: {
            "w": base["w"] + common + normal(seed, 70, 80, scale=0.1),
            "v": base["v"] + normal(seed, 9),
            "n": torch.tensor([seed, 2]),
            "x": normal(seed, 8),
            "added": normal(seed, 3),
        }
        for seed, task in enumerate(("cars", "dtd", "pets"), 5)
    }
    path = tmp_path / "bank.tvq"
    tvcodec.encode(base, tunes, path, recipe=tvcodec.QUALITIES["high"])
    return path


def test_a_file_goes_into_safetensors_and_comes_back_byte_for_byte(file, tmp_path):
    out, back = tmp_path / "bank.safetensors", tmp_path / "back.tvq"
    written = carrier.to_safetensors(file, out)
    assert written.bytes == out.stat().st_size
    with safetensors.safe_open(out, "pt") as opened, Archive(file).container as container:
        assert opened.metadata()["tvcodec.root"] == container.root_digest.hex() == written.root
        names = sorted(opened.keys())
        assert b"".join(opened.get_tensor(name).numpy().tobytes() for name in names) == (
            file.read_bytes()
        )
    shown = [name.partition("/")[2] for name in names]
    assert shown[0] == "prologue"
    assert {"shared basis/w", "cars/small parameters", "dtd/x", "pets/added", "pets/index"} < {
        *shown
    }
    assert shown[-3:] == ["similarity", "root index", "trailer"]
    assert carrier.from_safetensors(out, back).root == written.root
    assert back.read_bytes() == file.read_bytes()


def test_companion_files_are_a_part_of_their_own(tmp_path):
    for name in ("base", "cars"):
        (tmp_path / name).mkdir()
        save_file({"w": normal(len(name), 8, 8)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
    bank, out, back = (tmp_path / name for name in ("bank.tvq", "bank.safetensors", "back.tvq"))
    tvcodec.encode(tmp_path / "base", {"cars": tmp_path / "cars"}, bank)
    carrier.to_safetensors(bank, out)
    with safetensors.safe_open(out, "pt") as opened:
        shapes = {
            n.partition("/")[2]: opened.get_slice(n).get_shape() for n in opened.offset_keys()
        }
    with closing(Archive(bank)) as archive:
        group = archive.root.companions
    assert group is not None
    assert shapes["companion files"] == [group.length]
    carrier.from_safetensors(out, back)
    assert back.read_bytes() == bank.read_bytes()


def test_tensors_saved_again_by_the_library_still_carry_the_file(file, tmp_path):
    out, again = tmp_path / "bank.safetensors", tmp_path / "again.safetensors"
    carrier.to_safetensors(file, out)
    with safetensors.safe_open(out, "pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(out), again, metadata)
    carrier.from_safetensors(again, tmp_path / "back.tvq")
    assert (tmp_path / "back.tvq").read_bytes() == file.read_bytes()


def packed(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def unpacked(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def renamed(header: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("cars/w", "cars/other"): entry for name, entry in header.items()}


def changed_entry(**changes: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda header: {n: e | changes if "prologue" in n else e for n, e in header.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda header, data: b"",
        lambda header, data: b"\xff" * 100,
        lambda header, data: packed(header, data)[:-1],
        lambda header, data: packed(header, data + b"\0"),
        lambda header, data: packed(header, data[:500] + bytes([data[500] ^ 1]) + data[501:]),
        lambda header, data: packed(b"[" * 100_000, data),
        lambda header, data: packed(b"[]", data),
        lambda header, data: packed({**header, "__metadata__": {}}, data),
        lambda header, data: packed({**header, "__metadata__": {"tvcodec.root": "0" * 64}}, data),
        lambda header, data: packed({**header, "__metadata__": {"tvcodec.root": 1}}, data),
        lambda header, data: packed(renamed(header), data),
        lambda header, data: packed(changed_entry(dtype="I8")(header), data),
        lambda header, data: packed(changed_entry(shape=[8, 8])(header), data),
        lambda header, data: packed(changed_entry(shape=[-64])(header), data),
        lambda header, data: packed(changed_entry(shape=["64"])(header), data),
        lambda header, data: packed(changed_entry(data_offsets=[0, 63])(header), data),
        lambda header, data: packed(changed_entry(more=1)(header), data),
        lambda header, data: packed({n: e for n, e in header.items() if "trailer" not in n}, data),
        lambda header, data: packed(
            json.dumps(header).replace('{"__', '{"a": 1, "a": 2, "__', 1).encode(), data
        ),
        lambda header, data: (1 << 63).to_bytes(8, "little") + packed(header, data)[8:],
    ],
)
def test_a_hostile_carrier_is_refused_and_leaves_nothing(change, file, tmp_path):
    out, back = tmp_path / "bank.safetensors", tmp_path / "back.tvq"
    carrier.to_safetensors(file, out)
    out.write_bytes(change(*unpacked(out.read_bytes())))
    with pytest.raises(tvcodec.FormatError) as caught:
        carrier.from_safetensors(out, back)
    assert str(out) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank.safetensors", "bank.tvq"]


def test_the_commands_carry_a_file_and_bring_it_back(file, tmp_path):
    out, back = str(tmp_path / "b.safetensors"), str(tmp_path / "b.tvq")
    result = CliRunner().invoke(main, ["export", str(file), "--format", "safetensors", "-o", out])
    assert result.exit_code == 0, result.output
    root = result.stdout.split()[1]
    result = CliRunner().invoke(main, ["import", out, "-o", back, "--expect-root", root, "--json"])
    assert json.loads(result.stdout) == {"path": back, "bytes": file.stat().st_size, "root": root}
    assert Path(back).read_bytes() == file.read_bytes()
    for command in (["export", str(file), "--format", "safetensors"], ["import", out]):
        given = command[1]
        result = CliRunner().invoke(main, [*command, "-o", given, "--force"])
        assert "got the same file" in result.stderr
    result = CliRunner().invoke(
        main, ["import", out, "-o", back, "--expect-root", "0" * 64, "--force"]
    )
    assert result.exit_code == 1
    assert "expected root" in result.stderr


def test_a_damaged_file_is_not_exported(file, tmp_path):
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(tvcodec.FormatError, match="checksum"):
        carrier.to_safetensors(file, tmp_path / "bank.safetensors")
    assert not (tmp_path / "bank.safetensors").exists()
