"""A directory in, the same directory out, as the transformers library writes and reads it."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
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
from tvcodec.cli import main
from tvcodec.decoding.merging.card import write_card
from tvcodec.errors import CheckpointError, FormatError
from tvcodec.file.archive import Archive
from tvcodec.file.stored_files import StoredFiles

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


def test_too_much_is_refused_before_any_of_it_is_unpacked(
    berts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tvcodec.encode(berts / "base", {"one": berts / "one"}, tmp_path / "a.tvq", recipe=EXACT)
    monkeypatch.setattr("tvcodec.file.stored_files.KEPT_MAX", 99)
    unpacked: list[bytes] = []
    monkeypatch.setattr(StoredFiles, "content", lambda self, sha256: unpacked.append(sha256))
    with tvcodec.open(tmp_path / "a.tvq") as bank:
        model = bank.decode("one", berts / "base")
        with pytest.raises(FormatError, match="'one': companion files: expected at most 99 bytes"):
            model.save(tmp_path / "out")
    assert unpacked == []


def test_an_index_of_shards_goes_where_they_become_one_file(llamas: Path, tmp_path: Path) -> None:
    assert (llamas / "one" / "model.safetensors.index.json").exists()
    tvcodec.encode(llamas / "base", {"one": llamas / "one"}, tmp_path / "a.tvq", recipe=EXACT)
    with tvcodec.open(tmp_path / "a.tvq") as bank:
        bank.decode("one", llamas / "base").save(tmp_path / "out", max_shard_size=1 << 30)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names
    assert "model.safetensors.index.json" not in names
    assert "config.json" in names


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


def test_files_are_kept_once_and_only_where_they_differ(llamas: Path, tmp_path: Path) -> None:
    tasks = {task: llamas / task for task in ("one", "wider")}
    tvcodec.encode(llamas / "base", tasks, tmp_path / "a.tvq", recipe=EXACT)
    tvcodec.encode(llamas / "base", tasks, tmp_path / "b.tvq", recipe=EXACT, weights_only=True)
    with tvcodec.open(tmp_path / "b.tvq") as bank:
        assert bank.archive.root.companions is None
        assert bank.archive.index("one").files is None
    with tvcodec.open(tmp_path / "a.tvq") as bank:
        one, wider = (bank.archive.index(task) for task in tasks)
        kept = {file.name for file in one.files or () if file.source}
        assert kept <= {"model.safetensors.index.json"}
        kept = {file.name for file in wider.files or () if file.source}
        assert kept == {"config.json", "tokenizer.json", "model.safetensors.index.json"}
        needed = [*one.blobs(), *wider.blobs()]
        assert set(bank.archive.companions.blobs) == set(needed)
        assert len(set(needed)) < len(needed)  # most shards begin alike
        kinds = bank.archive.bytes_by_kind()
        assert (
            0 < kinds["companion files"] < (llamas / "wider" / "tokenizer.json").stat().st_size * 4
        )


def test_added_one_by_one_is_encoded_at_once_and_removed_is_never_there(
    llamas: Path, tmp_path: Path
) -> None:
    base, tasks = llamas / "base", {task: llamas / task for task in ("one", "wider")}
    tvcodec.encode(base, tasks, tmp_path / "both.tvq", recipe=EXACT)
    tvcodec.encode(base, {"one": llamas / "one"}, tmp_path / "one.tvq", recipe=EXACT)
    tvcodec.add(
        tmp_path / "one.tvq",
        base,
        {"wider": llamas / "wider"},
        output=tmp_path / "added.tvq",
        recipe=EXACT,
    )
    assert (tmp_path / "added.tvq").read_bytes() == (tmp_path / "both.tvq").read_bytes()
    tvcodec.remove(tmp_path / "both.tvq", ["wider"])
    assert (tmp_path / "both.tvq").read_bytes() == (tmp_path / "one.tvq").read_bytes()


def test_a_file_that_is_the_base_models_has_to_be_there(berts: Path, tmp_path: Path) -> None:
    tvcodec.encode(berts / "base", {"one": berts / "one"}, tmp_path / "a.tvq", recipe=EXACT)
    shutil.copytree(berts / "base", tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text("{}")
    with tvcodec.open(tmp_path / "a.tvq") as bank:
        with pytest.raises(CheckpointError, match=r"base model's config\.json .* got another one"):
            bank.decode("one", tmp_path / "base").save(tmp_path / "out")
        assert not (tmp_path / "out").exists()
        bank.decode("one", tmp_path / "base").save(tmp_path / "out.safetensors")
    wanted = load_file(berts / "one" / "model.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_weights_of_pickles_come_back_bit_for_bit_and_it_is_said(
    berts: Path, tmp_path: Path
) -> None:
    shutil.copytree(berts / "one", tmp_path / "one")
    weights = load_file(tmp_path / "one" / "model.safetensors")
    (tmp_path / "one" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "one" / "pytorch_model.bin")
    run = CliRunner().invoke
    words = ["encode", str(berts / "base"), f"one={tmp_path / 'one'}", "--exact"]
    encoded = run(main, [*words, "-o", str(tmp_path / "a.tvq")])
    assert "weights come back bit for bit, but not their files" in encoded.stderr
    words = ["decode", str(tmp_path / "a.tvq"), "one", "--base-model", str(berts / "base")]
    decoded = run(main, [*words, "-o", str(tmp_path / "out")])
    assert decoded.exit_code == 0
    assert "every value is the fine-tune's, but the files" in decoded.stderr
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert (tmp_path / "out" / "README.md").read_text() == "# one"


def test_what_is_left_out_is_said(berts: Path, tmp_path: Path) -> None:
    shutil.copytree(berts / "one", tmp_path / "one")
    (tmp_path / "one" / "training_args.bin").write_bytes(b"a pickle")
    (tmp_path / "one" / "optimizer.pt").write_bytes(b"a pickle")
    (tmp_path / "one" / ".env").write_text("SECRET=1")
    (tmp_path / "one" / "runs").mkdir()
    summary = tvcodec.encode(
        berts / "base", {"one": tmp_path / "one"}, tmp_path / "a.tvq", recipe=EXACT
    )
    assert "left out: .env, optimizer.pt, runs, training_args.bin" in summary.tasks[0].notes
    with tvcodec.open(tmp_path / "a.tvq") as bank:
        bank.decode("one", berts / "base").save(tmp_path / "out")
    assert names(tmp_path / "out") == names(berts / "one")


def test_weights_of_something_else_are_named_and_so_is_a_config_that_was_never_there(
    berts: Path, tmp_path: Path
) -> None:
    shutil.copytree(berts / "one", tmp_path / "one")
    (tmp_path / "one/config.json").unlink()
    for name in ("head.safetensors", "training_args.bin"):
        (tmp_path / "one" / name).write_bytes(b"something else")
    bank = tmp_path / "bank.tvq"
    summary = tvcodec.encode(berts / "base", {"one": tmp_path / "one"}, bank)
    assert "left out: head.safetensors, training_args.bin" in summary.tasks[0].notes
    with tvcodec.open(bank) as opened:
        (said,) = opened.decode("one", berts / "base").notes
    assert said.endswith("had no config.json: to load it, copy the base model's")


def test_salvage_keeps_weights_whose_files_are_damaged(llamas: Path, tmp_path: Path) -> None:
    tasks = {task: llamas / task for task in ("one", "wider")}
    tvcodec.encode(llamas / "base", tasks, tmp_path / "a.tvq")
    with closing(Archive(tmp_path / "a.tvq")) as archive:
        ((_, offset),) = [
            found
            for found in archive.companions.blobs.values()
            if found[0].size == (llamas / "wider" / "tokenizer.json").stat().st_size
        ]
    data = bytearray((tmp_path / "a.tvq").read_bytes())
    data[offset + 20] ^= 1
    (tmp_path / "a.tvq").write_bytes(data)
    with tvcodec.open(tmp_path / "a.tvq") as bank:
        with pytest.raises(FormatError, match="companion files: checksum mismatch"):
            bank.decode("wider", llamas / "base").save(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    saved = tvcodec.salvage(tmp_path / "a.tvq", tmp_path / "b.tvq")
    assert saved.lost == {}
    assert [note for note in saved.notes if note.startswith("task 'wider': left without")]
    with tvcodec.open(tmp_path / "b.tvq") as bank:
        bank.archive.verify()
        assert bank.archive.index("one").files is not None
        assert bank.archive.index("wider").files is None
        assert bank.decode("wider", llamas / "base")["model.norm.weight"].shape == (32,)


def test_a_merge_has_a_card_and_loads(llamas: Path, tmp_path: Path) -> None:
    tasks = {task: llamas / task for task in ("one", "wider")}
    summary = tvcodec.encode(llamas / "base", tasks, tmp_path / "a.tvq")
    words = ["merge", str(tmp_path / "a.tvq"), "--base-model", str(llamas / "base")]
    words += ["--weights", "one=0.3,wider=0.5", "--scaling", "0.8"]
    assert CliRunner().invoke(main, [*words, "-o", str(tmp_path / "out")]).exit_code == 0
    text = (tmp_path / "out" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["base_model"] == "base"
    assert facts["tags"] == ["merge", "tvcodec"]
    told = facts["tvcodec"]
    assert told["method"] == "weighted"
    assert told["weights"] == {"one": 0.3, "wider": 0.5}
    assert told["tasks"] == ["one", "wider"]
    assert told["scaling"] == 0.8
    assert told["archives"] == {"a.tvq": summary.root}
    assert told["command"].startswith("tvcodec merge ")
    assert "| wider | 0.5 |" in body
    assert logits(tmp_path / "out").shape[-1] == 64
    merged = tmp_path / "out.safetensors"
    assert CliRunner().invoke(main, [*words, "-o", str(merged)]).exit_code == 0
    with safe_open(merged, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["tvcodec.archives"]) == {"a.tvq": summary.root}
    assert json.loads(metadata["tvcodec.base_model"]) == "base"
    named = ["merge", "a.tvq", "--base-model", "base", *words[4:]]
    assert json.loads(metadata["tvcodec.command"]) == shlex.join(["tvcodec", *named])
    again = [
        *words,
        "--json",
        "--output",
        str(tmp_path / "again.safetensors"),
        "--jobs=1",
        "--force",
    ]
    assert CliRunner().invoke(main, again).exit_code == 0
    assert (tmp_path / "again.safetensors").read_bytes() == merged.read_bytes()


def test_a_card_is_yaml_whatever_a_path_holds(tmp_path: Path) -> None:
    command = "tvcodec merge '\U0001f600\x7f\x85\u2028.tvq' \udcff.tvq"
    told = {"command": command, "tasks": ["one"], "scaling": 1.0, "archives": {"\U0001f600": "00"}}
    metadata = {f"tvcodec.{name}": json.dumps(value) for name, value in told.items()}
    write_card(tmp_path, {"tvcodec.merge": "ties", **metadata})
    _, front, body = (tmp_path / "README.md").read_bytes().decode().split("---\n", 2)
    assert yaml.safe_load(front)["tvcodec"] == {"method": "ties", **told}
    assert "\\udcff.tvq" in body


def test_a_merge_of_files_of_one_name_tells_of_both(llamas: Path, tmp_path: Path) -> None:
    roots = []
    for task in ("one", "wider"):
        (tmp_path / task).mkdir()
        summary = tvcodec.encode(llamas / "base", {task: llamas / task}, tmp_path / task / "a.tvq")
        roots.append(summary.root)
    paths = [tmp_path / task / "a.tvq" for task in ("one", "wider")]
    with tvcodec.open(paths[0]) as bank, tvcodec.open(paths[1]) as other:
        metadata = bank.merge(llamas / "base", others=[other]).metadata
    assert json.loads(metadata["tvcodec.archives"]) == {"a.tvq": roots[0], "a.tvq (2)": roots[1]}
