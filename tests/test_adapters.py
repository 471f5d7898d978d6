"""LoRA adapters as peft writes them are fine-tunes: their product is the task vector."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from small_models import State, normal, relative_error
from torch import Tensor

import tvcodec
from tvcodec.checkpoint import open_checkpoint, open_fine_tune
from tvcodec.cli import main
from tvcodec.decoding.stored_task import StoredTask
from tvcodec.maths import lowrank
from tvcodec.maths.dense import squared_norm
from tvcodec.maths.product import Product
from tvcodec.parameter import one_task

# Of peft and transformers, about each other.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

QUERY = "bert.encoder.layer.0.attention.self.query"
VALUE = "bert.encoder.layer.1.attention.self.value"


def bert(seed: int = 0) -> Any:
    """A classifier with random weights."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=32,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config).eval()


def gpt2() -> Any:
    """A model whose linear layers are stored transposed."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=60, n_positions=16, n_embd=64, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config).eval()


def randomised(model: Any) -> Any:
    """The adapter as if it were trained: peft starts from a product of zero."""
    for number, (name, value) in enumerate(sorted(model.named_parameters())):
        if value.requires_grad:
            scale = 0.02 if "lora" in name else 0.1
            value.data = value.data + normal(number, *value.shape, scale=scale)
    return model


@pytest.fixture
def adapted(tmp_path: Path) -> Callable[..., tuple[Path, Path, State]]:
    """Saves a model and an adapter of it, and merges the two as peft does."""

    def make(model: Any, **settings: Any) -> tuple[Path, Path, State]:
        base, adapter = tmp_path / "base", tmp_path / "adapter"
        model.save_pretrained(base)
        tuned = randomised(peft.get_peft_model(model, peft.LoraConfig(**settings)))
        tuned.save_pretrained(adapter)
        merged = tuned.merge_and_unload()
        merged.save_pretrained(tmp_path / "merged")
        return base, adapter, load_file(tmp_path / "merged" / "model.safetensors")

    return make


def of(base: Path, adapter: Path) -> State:
    """The fine-tune that an adapter stands for."""
    checkpoint = open_fine_tune(adapter, open_checkpoint(base))
    return {name: checkpoint.tensor(name) for name in checkpoint}


def assert_close(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "target_modules": ["query", "value"]},
        {"r": 4, "lora_alpha": 16, "target_modules": ["query"], "use_rslora": True},
        {
            "r": 4,
            "target_modules": ["query", "value", "dense"],
            "rank_pattern": {"query": 2, r"layer\.1\.attention\.self\.value": 6},
            "alpha_pattern": {QUERY: 32, "^bert.pooler.dense": 3},
        },
        {"r": 4, "target_modules": ["query"], "bias": "all"},
        {"r": 4, "target_modules": ["query"], "bias": "lora_only"},
        {"r": 4, "target_modules": ["query"], "modules_to_save": ["classifier", "pooler"]},
        {"r": 4, "target_modules": ["word_embeddings", "value"]},
        {"r": 4, "target_modules": ["query"], "task_type": "SEQ_CLS"},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_an_adapter_is_what_peft_merges(settings, adapted):
    base, adapter, merged = adapted(bert(), **settings)
    assert_close(of(base, adapter), merged)


def test_transposed_layers_are_what_peft_merges(adapted):
    base, adapter, merged = adapted(gpt2(), r=4, target_modules=["c_attn", "c_proj", "wte"])
    ours = of(base, adapter)
    assert_close({name: ours[name] for name in merged}, merged)


def test_names_may_have_a_prefix_more_or_less_than_the_base_model(adapted, tmp_path):
    base, adapter, merged = adapted(
        bert(), r=4, target_modules=["query"], modules_to_save=["classifier", "pooler"]
    )
    state = load_file(base / "model.safetensors")
    headless = {
        name.removeprefix("bert."): value for name, value in state.items() if "bert." in name
    }
    save_file(headless, tmp_path / "headless.safetensors")
    expected = {name.removeprefix("bert."): value for name, value in merged.items()}
    assert_close(of(tmp_path / "headless.safetensors", adapter), expected)
    longer = {f"model.{name}": value for name, value in state.items()}
    save_file(longer, tmp_path / "longer.safetensors")
    expected = {f"model.{name}": value for name, value in merged.items()}
    assert_close(of(tmp_path / "longer.safetensors", adapter), expected)


def test_through_a_file_comes_the_product_of_the_adapter(adapted, tmp_path):
    base, adapter, merged = adapted(
        bert(), r=8, target_modules=["query", "key", "value"], modules_to_save=["classifier"]
    )
    bank = tmp_path / "bank.tvq"
    summary = tvcodec.encode(base, {"cars": adapter}, bank, recipe=tvcodec.Recipe(step=0.05))
    assert summary.tasks[0].error < 0.02
    original = load_file(base / "model.safetensors")
    with tvcodec.open(bank) as opened:
        restored = dict(opened.decode("cars", base))
    tau = torch.cat([(merged[name] - original[name]).view(-1) for name in original])
    ours = torch.cat([(restored[name] - original[name]).view(-1) for name in original])
    assert relative_error(ours, tau) == pytest.approx(summary.tasks[0].error, rel=0.01)


def test_factors_take_the_room_of_their_codes(adapted, tmp_path):
    """Not that of the matrices: entropy of the codes, and their records."""
    base, adapter, _ = adapted(bert(), r=8, target_modules=["query", "key", "value"])
    bank = tmp_path / "bank.tvq"
    summary = tvcodec.encode(base, {"cars": adapter}, bank, recipe=tvcodec.QUALITIES["high"])
    codes = []
    with tvcodec.open(bank) as opened:
        stored = StoredTask(opened.archive, "cars")
        changed = [n for n, p in enumerate(opened.archive.root.base_model) if stored.changed(n)]
        assert len(changed) == 6
        for number in changed:
            parts = stored.parts(number)
            assert parts is not None
            assert all(isinstance(item, lowrank.Factors) for item in parts.contents)
            assert sum(len(item.scales) for item in parts.contents) == 8
            codes += [side for item in parts.contents for side in (item.left, item.right)]
        sections = opened.archive.record("cars").sections_length
    everything = torch.cat([side.flatten().long() for side in codes])
    counts = torch.bincount(everything - everything.min()).double()
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * share.log2()).sum()) * len(everything) / 8
    assert sections < 1.15 * entropy + 6 * 64
    assert summary.tasks[0].error < 0.1
    assert sections < (adapter / "adapter_model.safetensors").stat().st_size / 4


def test_an_adapter_is_encoded_without_its_matrices(adapted, tmp_path, monkeypatch):
    base, adapter, _ = adapted(bert(), r=4, target_modules=["query", "value"])

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the matrix was made")

    monkeypatch.setattr(Product, "dense", refuse)
    for recipe in (None, tvcodec.QUALITIES["small"], tvcodec.QUALITIES["high"]):
        tvcodec.encode(
            base, {"a": adapter, "b": adapter}, tmp_path / "bank.tvq", recipe=recipe, force=True
        )


@pytest.mark.parametrize(
    "options",
    [(), ("--max-error", "0.05"), ("--exact",), ("--recipe", "tvq", "--bits", "4")],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_encode_add_and_verify_take_adapters(options, dtype, adapted, tmp_path):
    base, adapter, _ = adapted(
        bert().to(dtype), r=4, target_modules=["query", "dense"], modules_to_save=["classifier"]
    )
    bank = str(tmp_path / "bank.tvq")
    runs = (
        ("encode", str(base), f"cars={adapter}", "-o", bank, *options),
        ("add", bank, str(base), f"dtd={adapter}", *options),
        (
            "verify",
            bank,
            "--base-model",
            str(base),
            "--against",
            f"cars={adapter}",
            "--against",
            f"dtd={adapter}",
        ),
    )
    for run in runs:
        result = CliRunner().invoke(main, run)
        assert result.exit_code == 0, result.output
    assert result.output.count("as stated") == 2


def test_tune_measures_the_model_that_an_adapter_makes(adapted, tmp_path):
    base, adapter, merged = adapted(bert(), r=4, target_modules=["query"])
    name = f"{QUERY}.weight"
    original = load_file(base / "model.safetensors")[name]
    scores = []

    def evaluate(model, task):
        assert model.directory == base
        scores.append(1 - relative_error(model[name] - original, merged[name] - original))
        return scores[-1]

    path = tmp_path / "bank.tvq"
    found = tvcodec.tune(base, {"a": adapter}, evaluate, path=path, retain=0.7, max_evaluations=3)
    assert scores[0] > 0.999
    assert found.curves["a"].choice.metric != "exact"
    assert found.curves["a"].choice.score in scores[1:]
    with tvcodec.open(path) as bank:
        assert evaluate(bank.decode("a", base), "a") >= 0.7 * scores[0]


def test_a_product_of_zero_changes_nothing(tmp_path):
    model = bert()
    model.save_pretrained(tmp_path / "base")
    fresh = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["query"]))
    fresh.save_pretrained(tmp_path / "adapter")
    bank = tmp_path / "bank.tvq"
    summary = tvcodec.encode(tmp_path / "base", {"cars": tmp_path / "adapter"}, bank)
    assert summary.tasks[0].error == 0
    with tvcodec.open(bank) as opened:
        assert dict(opened.task_vector("cars")) == {}


def edited(adapter: Path, **changes: object) -> Path:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return adapter


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"peft_type": "LOHA"}, "type LORA, got 'LOHA'"),
        ({"use_dora": True}, "'use_dora' = True"),
        ({"lora_bias": True}, "'lora_bias' = True"),
        ({"init_lora_weights": "pissa_niter_4"}, "got 'pissa_niter_4'"),
        ({"trainable_token_indices": [1, 2]}, "'trainable_token_indices'"),
        ({"from_a_later_peft": {"a": 1}}, "'from_a_later_peft'"),
        ({"alpha_pattern": {"(a+)+": 3}}, "simple patterns, got '(a+)+'"),
        ({"alpha_pattern": {"(": 3}}, "simple patterns, got '('"),
        ({"lora_alpha": "much"}, "lora_alpha: expected a number"),
        ({"r": 5}, "expected rank 5"),
    ],
)
def test_what_is_more_than_lora_is_refused_by_name(changes, found, adapted):
    base, adapter, _ = adapted(bert(), r=4, target_modules=["query"])
    with pytest.raises(tvcodec.CheckpointError) as caught:
        of(base, edited(adapter, **changes))
    assert found in str(caught.value)
    assert "adapter" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (peft.LoKrConfig(target_modules=["query"]), "got 'LOKR'"),
        (peft.IA3Config(target_modules=["query"], feedforward_modules=[]), "got 'IA3'"),
        (peft.LoraConfig(target_modules=["query"], use_dora=True), "'use_dora' = True"),
    ],
    ids=["LoKr", "IA3", "DoRA"],
)
def test_other_adapters_of_peft_are_refused_with_a_way_out(config, found, tmp_path):
    model = bert()
    model.save_pretrained(tmp_path / "base")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(tvcodec.CheckpointError) as caught:
        of(tmp_path / "base", tmp_path / "adapter")
    assert found in str(caught.value)
    assert "merge_and_unload" in str(caught.value.hint)


def tensors(adapter: Path, change: Callable[[State], State]) -> Path:
    path = adapter / "adapter_model.safetensors"
    save_file({name: value.clone() for name, value in change(load_file(path)).items()}, path)
    return adapter


A = f"base_model.model.{QUERY}.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda state: {n: t for n, t in state.items() if n != A}, "got one of them"),
        (lambda state: state | {A: state[A][:, :7].contiguous()}, "expected factors of a matrix"),
        (lambda state: state | {A: state[A][:, :, None, None]}, "LoRA of a matrix"),
        (lambda state: state | {A.replace("query", "q"): state[A]}, "got none"),
        (lambda state: state | {A.replace("lora_A", "lora_magnitude"): state[A]}, "plain LoRA"),
        (lambda state: {"classifier.weight": torch.ones(3, 128)}, "lora_A and lora_B tensors"),
        (lambda state: state | {A: state[A] * math.nan}, "norm"),
    ],
)
def test_tensors_that_are_no_sound_lora_are_refused(change, found, adapted, tmp_path):
    base, adapter, _ = adapted(bert(), r=4, target_modules=["query"])
    tensors(adapter, change)
    with pytest.raises(tvcodec.CheckpointError, match=found):
        tvcodec.encode(base, {"cars": adapter}, tmp_path / "bank.tvq")
    assert not (tmp_path / "bank.tvq").exists()


def test_an_ambiguous_name_is_refused(adapted, tmp_path):
    base, adapter, _ = adapted(bert(), r=4, target_modules=["query"])
    state = load_file(base / "model.safetensors")
    twice = {f"{p}.{name}": value.clone() for p in "ab" for name, value in state.items()}
    save_file(twice, tmp_path / "twice.safetensors")
    with pytest.raises(tvcodec.CheckpointError, match=r"got 'a\.bert.*' and 'b\.bert"):
        of(tmp_path / "twice.safetensors", adapter)


def test_a_file_is_not_written_into_an_adapter(adapted):
    base, adapter, _ = adapted(bert(), r=4, target_modules=["query"])
    with pytest.raises(tvcodec.TvqError, match="one within"):
        tvcodec.encode(base, {"cars": adapter}, adapter / "bank.tvq")


# The maths: what is known of a product without its matrix


@pytest.mark.parametrize("shape", [(40, 300), (300, 40)])
def test_a_product_knows_its_matrix(shape):
    product = Product(normal(0, shape[0], 5), normal(1, shape[1], 5))
    matrix = product.left @ product.right.T
    left, sigma, right = product.triplets()
    torch.testing.assert_close(left * sigma @ right.T, matrix, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sigma, torch.linalg.svdvals(matrix)[:5], rtol=1e-5, atol=0)
    assert product.squared_norm() == pytest.approx(squared_norm(matrix), rel=1e-6)
    for length in (64, 1000, 10**6):
        torch.testing.assert_close(torch.cat(list(product.pieces(length))), matrix.view(-1))
    best = (left * sigma)[:, :2] @ right[:, :2].T
    torch.testing.assert_close(product.truncated(2).dense(), best, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_factors_of_any_scale_are_coded(scale):
    product = Product(normal(0, 90, 4, scale=scale), normal(1, 80, 4))
    rms = math.sqrt(product.squared_norm() / 7200)
    coded = one_task.encode_product(0, product, torch.ones(90, 80), tvcodec.Recipe(step=0.1), rms)
    assert coded.entry is not None
    assert 0 < coded.entry.error < 0.05
    assert coded.entry.gain == pytest.approx(1, abs=0.01)
