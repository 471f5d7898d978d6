"""A directory in, the same directory out, as the transformers library writes and reads it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import tvcodec
from tvcodec.archive import Archive
from tvcodec.cli import main
from tvcodec.errors import CheckpointError, FormatError

TOKENS = torch.tensor([[1, 5, 9, 30, 2, 7]])
EXACT = tvcodec.EXACT


def digests(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def changed(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.add_(noise.to(parameter.dtype))
    return model


def a_tokenizer(directory: Path, words: int) -> None:
    """Files as a tokenizer saves them; their content is nobody's business here."""
    vocabulary = {f"word{number}": number for number in range(words)}
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    (directory / "additional_chat_templates").mkdir(exist_ok=True)
    (directory / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")


@pytest.fixture(scope="session")
def berts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ and one/, of one file of weights each; one/ has lost a file that base/ has."""
    top = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(top / "base")
    changed(BertModel.from_pretrained(top / "base"), 1).save_pretrained(top / "one")
    for name in ("base", "one"):
        a_tokenizer(top / name, 64)
    (top / "base" / "vocab.txt").write_text("of the base model alone")
    (top / "one" / "README.md").write_text("# one")
    return top


@pytest.fixture(scope="session")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, one/ and wider/ of tied embeddings, in bfloat16 and in shards; wider/ has another row
    of vocabulary."""
    top = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    save = {"max_shard_size": "20KB"}
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(top / "base", **save)
    for name, seed in (("one", 1), ("wider", 2)):
        model = changed(LlamaForCausalLM.from_pretrained(top / "base"), seed)
        if name == "wider":
            model.resize_token_embeddings(65, mean_resizing=False)
        model.save_pretrained(top / name, **save)
    for name, words in (("base", 64), ("one", 64), ("wider", 65)):
        a_tokenizer(top / name, words)
    assert len(list((top / "one").glob("model-*.safetensors"))) > 2
    return top


def logits(directory: Path, kind: type = AutoModelForCausalLM) -> torch.Tensor:
    model = kind.from_pretrained(directory, local_files_only=True).eval()
    with torch.no_grad():
        return model(TOKENS)[0].float()


def names(directory: Path) -> set[str]:
    return set(digests(directory))


def test_a_bert_comes_back_with_its_own_files(berts: Path, tmp_path: Path) -> None:
    recipe = tvcodec.QUALITIES["high"]
    tvcodec.encode(berts / "base", {"one": berts / "one"}, tmp_path / "a.tvq", recipe=recipe)
    with tvcodec.open(tmp_path / "a.tvq") as bank:
        model = bank.decode("one", berts / "base")
        model.save(tmp_path / "out")
        assert model.notes == ()
    before, after = digests(berts / "one"), digests(tmp_path / "out")
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"model.safetensors"}
    wanted, base = logits(berts / "one", AutoModel), logits(berts / "base", AutoModel)
    found = logits(tmp_path / "out", AutoModel)
    assert (found - wanted).norm() < 0.4 * (base - wanted).norm()


def test_an_exact_directory_comes_back_byte_for_byte(
    berts: Path, llamas: Path, tmp_path: Path
) -> None:
    for top, tasks in ((berts, ["one"]), (llamas, ["one", "wider"])):
        archive = tmp_path / f"{top.name}.tvq"
        tvcodec.encode(top / "base", {task: top / task for task in tasks}, archive, recipe=EXACT)
        with tvcodec.open(archive) as bank:
            bank.archive.verify()
            for task in tasks:
                out = tmp_path / f"{top.name}-{task}"
                bank.decode(task, top / "base").save(out)
                assert digests(out) == digests(top / task)
    assert torch.equal(logits(tmp_path / f"{llamas.name}-wider"), logits(llamas / "wider"))
    assert logits(tmp_path / f"{llamas.name}-wider").shape[-1] == 65


def test_a_sharded_llama_with_another_row_comes_back_close(llamas: Path, tmp_path: Path) -> None:
    tasks = {task: llamas / task for task in ("one", "wider")}
    recipe = tvcodec.QUALITIES["high"]
    tvcodec.encode(llamas / "base", tasks, tmp_path / "a.tvq", recipe=recipe)
    base = logits(llamas / "base")
    for task in tasks:
        with tvcodec.open(tmp_path / "a.tvq") as bank:
            bank.decode(task, llamas / "base").save(tmp_path / task, max_shard_size=20_000)
        found, wanted = logits(tmp_path / task), logits(llamas / task)
        assert found.shape == wanted.shape
        error = (found - wanted)[..., :64].norm()
        assert error < 0.5 * (base - wanted[..., :64]).norm()
        files = digests(tmp_path / task)
        assert files["tokenizer.json"] == digests(llamas / task)["tokenizer.json"]
        assert "model-00002-of-00002.safetensors" in files or len(files) > 6
