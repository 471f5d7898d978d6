"""What people see: stdout, stderr and exit codes of the commands."""

import importlib
import io
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import children
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, safe_open, save_file

import tvcodec
from tvcodec.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
PROGRAM = "from tvcodec.cli import main; main(prog_name='tvcodec')"
SAMPLE = ROOT / "tools" / "sample"
BASE = torch.Generator().manual_seed(0)
INFO_KEYS = [
    *("path", "bytes", "root", "base_model", "tasks", "bytes_by_kind"),
    *("similarity", "similarity_deviation"),
]


def base_state():
    BASE.manual_seed(0)
    return {
        "layer.0.weight": torch.randn(64, 48, generator=BASE),
        "layer.0.bias": torch.randn(64, generator=BASE),
        "layer.1.weight": torch.randn(96, 64, generator=BASE),
        "head.weight": torch.randn(10, 96, generator=BASE),
        "steps": torch.tensor([3, 4]),
    }


def tuned(seed, **changes):
    """The base model a step further, with some parameters replaced; None removes one."""
    noise = torch.Generator().manual_seed(seed)
    state = {
        name: value + 0.01 * torch.randn(value.shape, generator=noise)
        if value.is_floating_point()
        else value
        for name, value in base_state().items()
    }
    state.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in state.items() if value is not None}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    save_file(base_state(), directory / "base.safetensors")
    save_file(tuned(1), directory / "cars.safetensors")
    save_file(tuned(2, steps=torch.tensor([3, 5])), directory / "dtd.safetensors")
    return directory


@pytest.fixture(scope="session")
def bank(models):
    path = models / "bank.tvq"
    tvcodec.encode(
        models / "base.safetensors",
        {task: models / f"{task}.safetensors" for task in ("cars", "dtd")},
        path,
    )
    return path


@pytest.fixture
def here(models, bank, tmp_path, monkeypatch):
    """A directory of its own with the models in it, to write into."""
    for file in models.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="tvcodec")


def succeeds(*words):
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def fails(code, *words):
    """stderr of a command that must fail with `code`, say nothing on stdout and write nothing."""
    before = sorted(os.listdir())
    result = run(*words)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert sorted(os.listdir()) == before
    return result.stderr


def complaint(*words):
    """Message and hint of a command that must fail with 1."""
    message, *hint = fails(1, *words).splitlines()
    assert message.startswith("Error: ")
    assert all(line.startswith("hint: ") for line in hint)
    return message, *hint


def usage_error(*words):
    stderr = fails(2, *words)
    assert stderr.startswith("Usage: tvcodec ")
    return stderr.splitlines()[-1]


ENCODE = ("encode", "base.safetensors", "cars=cars.safetensors", "-o", "new.tvq")
DECODE = ("decode", "bank.tvq", "cars", "--base-model", "base.safetensors", "-o", "new.safetensors")
MERGE = ("merge", "bank.tvq", "--base-model", "base.safetensors", "-o", "new.safetensors")


def encode_of(state):
    save_file(state, "odd.safetensors")
    return "encode", "base.safetensors", "odd=odd.safetensors", "-o", "new.tvq"


# encode


def test_encode_prints_a_table(here):
    result = succeeds(*ENCODE, "dtd=dtd.safetensors")
    header, line, cars, dtd, common = result.stdout.splitlines()
    assert common.split()[0] == "(common)"
    assert header.split("  ")[0] == "task"
    assert set(line) == {"-", " "}
    assert [cars.split()[0], dtd.split()[0]] == ["cars", "dtd"]
    assert "\x1b" not in result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\nwrote new.tvq: " in "\n" + result.stderr


def test_encode_prints_json(here):
    value = json.loads(succeeds(*ENCODE, "--json").stdout)
    assert list(value) == ["path", "bytes", "root", "tasks"]
    assert value["bytes"] == os.path.getsize("new.tvq")
    (task,) = value["tasks"]
    assert list(task) == ["name", "bytes", "bits_per_parameter", "times_smaller", "error", "notes"]
    values = sum(tensor.numel() for tensor in base_state().values())
    assert task["bits_per_parameter"] == pytest.approx(8 * value["bytes"] / values)


def test_encode_says_loudly_what_is_kept_whole(here):
    odd = tuned(3, head__weight=torch.zeros(12, 5), extra=torch.ones(3), layer__0__bias=None)
    stderr = succeeds(*encode_of(odd)).stderr
    assert "note: task 'odd': head.weight: float32 [10, 96] became float32 [12, 5]" in stderr
    assert "note: task 'odd': extra: not in the base model, kept whole" in stderr
    assert "note: task 'odd': layer.0.bias: missing from the fine-tune" in stderr


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        (("--step", "1.5"), 0.2, 0.6),
        (("--step", "2", "--metric", "mse", "--gain", "0.5"), 0.2, 1),
        (("--step", "2", "--metric", "function"), 0.2, 9),
        (("--bits", "2"), 0.1, 0.8),
        (("--size", "4KB"), 0.1, 0.6),
        (("--max-error", "0.3"), 0.2, 0.3),
        (("--quality", "small"), 0.0, 9),
        (("--quality", "high"), 0.0, 0.5),
        (("--exact",), 0.0, 0.0),
    ],
)
def test_every_way_to_say_how_close(here, options, least, most):
    (task,) = json.loads(succeeds(*ENCODE, *options, "--json").stdout)["tasks"]
    assert least <= task["error"] <= most
    if "--size" in options:
        assert task["bytes"] <= 4000


def test_presets_are_those_of_the_library():
    names = importlib.import_module("tvcodec.cli.encode").QUALITIES
    assert list(names) == list(tvcodec.QUALITIES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--step", "2", "--bits", "1"), "--step and --bits exclude each other: give one"),
        (("--quality", "high", "--exact"), "--quality and --exact exclude each other: give one"),
        (("--metric", "mse"), "--metric goes with --step, --bits or --size"),
        (("--max-error", "1", "--metric", "mse"), "--metric goes with --step, --bits or --size"),
        (("--step", "1", "--metric", "function", "--gain", "1"), "--gain goes with --metric mse"),
        (("--step", "nan"), "expected a number in 0.001..1000, got nan"),
        (("--bits", "nan"), "expected a number above 0, got nan"),
        (("--max-error", "0"), "expected a number above 0, got 0"),
        (("--step", "1", "--gain", "2"), "expected a number in 0..1, got 2"),
        (("--size", "5 apples"), "expected bytes such as 500KB or 1.5MB, got '5 apples'"),
        (("--size", "0"), "expected 1 byte to 8 EiB, got '0'"),
        (("cars=dtd.safetensors",), "task 'cars' is given twice"),
        (("Cars=dtd.safetensors",), "tasks 'cars' and 'Cars' differ in upper and lower case"),
        (("dtd.safetensors",), "expected NAME=FINE_TUNE, got 'dtd.safetensors'"),
        (("../x=dtd.safetensors",), "task '../x': expected a name of letters"),
        (("nul=dtd.safetensors",), "task 'nul': expected a name of letters"),
    ],
)
def test_encode_refuses_wrong_usage(here, options, message):
    assert message in usage_error(*ENCODE, *options)


def test_encode_needs_a_task(here):
    assert "NAME=FINE_TUNE" in usage_error("encode", "base.safetensors", "-o", "new.tvq")


@pytest.mark.parametrize("command", [("encode", "-o", "new.tvq"), ("add", "bank.tvq")])
def test_a_missing_base_model_is_not_taken_for_something_else(here, command):
    assert usage_error(*command) == "Error: Missing argument 'BASE_MODEL'."
    for words in (["cars=cars.safetensors"], ["cars=cars.safetensors", "dtd=dtd.safetensors"]):
        assert usage_error(*command, *words) == (
            "Error: Missing argument 'BASE_MODEL': 'cars=cars.safetensors' is NAME=FINE_TUNE."
        )
    assert "'NAME=FINE_TUNE...'" in usage_error(*command, "base.safetensors")


def test_a_base_model_may_have_an_equals_sign_in_its_name(here):
    Path("rate=1e-4").symlink_to("base.safetensors")
    succeeds("encode", "rate=1e-4", "cars=cars.safetensors", "-o", "new.tvq")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".PTH"])
def test_an_archive_is_not_called_like_a_model(here, suffix):
    name = f"new{suffix}"
    for words in (
        (*ENCODE[:-1], name),
        ("remove", "bank.tvq", "cars", "-o", name),
        ("salvage", "bank.tvq", "-o", name),
        ("add", "bank.tvq", "base.safetensors", "pets=cars.safetensors", "-o", name),
    ):
        message, hint = complaint(*words)
        assert message == f"Error: {name}: expected a name that ends in .tvq, got {suffix}"
        assert hint.startswith("hint: tvcodec decode writes models")


def test_sizes_have_units(here):
    size = importlib.import_module("tvcodec.cli.options").Bytes()
    words = ["12", "500KB", "1.5MB", "2k", "1 GiB", "3MiB"]
    sizes = [12, 500_000, 1_500_000, 2000, 2**30, 3 * 2**20]
    assert [size.convert(word, None, None) for word in words] == sizes


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_encode_names_the_first_value_that_is_not_finite(here, bad):
    state = tuned(3)
    state["layer.1.weight"][5, 7] = bad
    state["layer.1.weight"][6, 0] = bad
    message, hint = complaint(*encode_of(state))
    assert message == (
        "Error: task 'odd': parameter 'layer.1.weight': expected finite values,"
        f" got {bad} at [5, 7]"
    )
    assert hint == "hint: --exact stores such values as they are"


def test_encode_names_the_base_model_that_is_not_finite(here):
    state = base_state()
    state["layer.0.bias"][2] = math.nan
    save_file(state, "nan.safetensors")
    words = ("encode", "nan.safetensors", "cars=cars.safetensors", "-o", "new.tvq")
    assert "base model nan.safetensors: parameter 'layer.0.bias'" in complaint(*words)[0]


def test_encode_refuses_a_model_of_other_names(here):
    message, hint = complaint(*encode_of({"other": torch.ones(3)}))
    assert message == (
        "Error: task 'odd': odd.safetensors has no parameter of base.safetensors:"
        " expected names such as 'head.weight', got 'other'"
    )
    assert hint == "hint: is this a fine-tune of that base model?"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"once upon a time", "got a damaged one"),
        (b"\x89TVQ\r\n\x1a\n" + bytes(200), "got a .tvq file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got a Git LFS pointer"),
    ],
)
def test_encode_refuses_a_wrong_file(here, content, message):
    Path("odd.safetensors").write_bytes(content)
    words = ("encode", "base.safetensors", "odd=odd.safetensors", "-o", "new.tvq")
    error = complaint(*words)[0]
    assert error.startswith("Error: task 'odd': odd.safetensors: expected a")
    assert message in error


def test_files_that_cannot_be_read(here):
    words = ("encode", "base.safetensors", "odd=nowhere.safetensors", "-o", "new.tvq")
    assert "nowhere.safetensors: no such file or directory" in complaint(*words)[0]
    words = ("encode", "nowhere", "cars=cars.safetensors", "-o", "new.tvq")
    assert complaint(*words)[0] == "Error: nowhere: no such file or directory"
    assert complaint("info", "nowhere.tvq")[0] == "Error: nowhere.tvq: no such file or directory"
    assert "not/there: no such directory" in complaint(*ENCODE[:-1], "not/there/new.tvq")[0]


def test_what_exists_is_not_overwritten(here):
    for words in (ENCODE, DECODE, MERGE):
        Path(words[-1]).write_text("precious")
        assert complaint(*words) == (
            f"Error: {words[-1]}: exists already",
            "hint: --force overwrites it",
        )
        assert Path(words[-1]).read_text() == "precious"
        succeeds(*words, "--force")
        assert Path(words[-1]).read_bytes() != b"precious"


def test_an_interrupted_encode_leaves_nothing(here, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tvcodec.encoding.coding._alone", interrupt)
    assert fails(130, *ENCODE) == "Error: interrupted, nothing was written\n"


# decode


def test_decode_restores_a_model(here):
    result = succeeds(*DECODE)
    assert (result.stdout, result.stderr) == ("", "wrote new.safetensors: 5 parameters\n")
    restored, original = load_file("new.safetensors"), tuned(1)
    assert sorted(restored) == sorted(original)
    for name, tensor in original.items():
        assert restored[name].dtype == tensor.dtype
        assert restored[name].shape == tensor.shape


def test_decode_of_exact_is_exact(here):
    succeeds(*ENCODE, "--exact")
    words = ("--base-model", "base.safetensors", "-o", "back")
    succeeds("decode", "new.tvq", "cars", *words)
    restored, original = load_file("back/model.safetensors"), tuned(1)
    assert all(torch.equal(restored[name], tensor) for name, tensor in original.items())


def test_decode_in_shards(here):
    succeeds(*DECODE[:-1], "out", "--max-shard-size", "20KB")
    index = json.loads(Path("out/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".tvq"])
def test_no_directory_is_called_like_a_file_of_another_format(here, suffix):
    for words in (DECODE, MERGE):
        message, hint = complaint(*words[:-1], f"new{suffix}")
        assert message.startswith(f"Error: new{suffix}: expected a name that ends in .safetensors")
        assert hint == "hint: write .safetensors and convert it"


def test_decode_of_a_part(here):
    succeeds(*DECODE, "--parameters", "layer.*.weight")
    assert list(load_file("new.safetensors")) == ["layer.0.weight", "layer.1.weight"]
    message, hint = complaint(*DECODE[:-1], "other.safetensors", "--parameters", "nothing*")
    assert message == "Error: no parameter of task 'cars' matches 'nothing*'"
    assert hint == "hint: tvcodec info --parameters lists them"


def test_decode_of_one_parameter_whose_name_is_no_glob(here):
    names = ("experts[0].weight", "experts0.weight")
    base = {name: torch.zeros(4, 4) for name in names}
    save_file(base, "listed.safetensors")
    save_file({name: tensor + 1 for name, tensor in base.items()}, "tuned.safetensors")
    succeeds("encode", "listed.safetensors", "a=tuned.safetensors", "--exact", "-o", "new.tvq")
    words = (
        "decode",
        "new.tvq",
        "a",
        "--base-model",
        "listed.safetensors",
        "-o",
        "one.safetensors",
    )
    succeeds(*words, "--parameters", "experts[0].weight")
    assert list(load_file("one.safetensors")) == ["experts[0].weight"]  # the glob is the other
    succeeds(*words, "--parameters", "experts[0].*", "--force")
    assert list(load_file("one.safetensors")) == ["experts0.weight"]
    succeeds(*words, "--parameters", "experts[[]0].*", "--force")
    assert list(load_file("one.safetensors")) == ["experts[0].weight"]


def test_decode_of_a_task_vector_needs_no_base_model(here):
    succeeds("decode", "bank.tvq", "cars", "--task-vector", "-o", "tau.safetensors")
    tau = load_file("tau.safetensors")
    assert sorted(tau) == ["head.weight", "layer.0.bias", "layer.0.weight", "layer.1.weight"]
    words = ("--task-vector", "--parameters", "head*", "-o", "head.safetensors")
    succeeds("decode", "bank.tvq", "cars", *words)
    assert list(load_file("head.safetensors")) == ["head.weight"]


def test_decode_needs_a_base_model(here):
    message = usage_error("decode", "bank.tvq", "cars", "-o", "new.safetensors")
    assert message == "Error: --base-model is missing (only --task-vector goes without)"


def test_decode_of_an_unknown_task(here):
    words = ("--base-model", "base.safetensors", "-o", "new.safetensors")
    message, hint = complaint("decode", "bank.tvq", "boats", *words)
    assert (message, hint) == ("Error: no task 'boats' in bank.tvq", "hint: it holds cars, dtd")


def test_a_wrong_base_model_is_named_and_nothing_written(here):
    for words in (DECODE, MERGE):
        wrong = [word.replace("base.safetensors", "cars.safetensors") for word in words]
        message, hint = complaint(*wrong)
        assert message == (
            "Error: cars.safetensors: not the base model of bank.tvq: 4 of 5 parameters differ:"
            " head.weight, layer.0.bias, layer.0.weight, layer.1.weight"
        )
        assert hint == "hint: use the base model that the file was encoded with"


# merge


def seen():
    """A merge from a file in which methods see single values and directions."""
    words = ("cars=cars.safetensors", "dtd=dtd.safetensors", "--quality", "high", "-o", "seen.tvq")
    succeeds("encode", "base.safetensors", *words)
    return "merge", "seen.tvq", *MERGE[2:]


def test_merge_prints_and_records_its_weights(here):
    result = succeeds(*MERGE, "--scaling", "0.5")
    assert result.stdout == ""
    assert [line.split() for line in result.stderr.splitlines()[2:4]] == [
        ["cars", "0.5"],
        ["dtd", "0.5"],
    ]
    with safe_open("new.safetensors", "pt") as file:
        assert json.loads(file.metadata()["tvcodec.weights"]) == {"cars": 0.5, "dtd": 0.5}


def test_merge_by_weights(here):
    value = json.loads(succeeds(*MERGE, "--weights", "cars=0.4,dtd=0", "--json").stdout)
    assert value == {
        "path": "new.safetensors",
        "method": "weighted",
        "tasks": ["cars", "dtd"],
        "scaling": 1.0,
        "weights": {"cars": 0.4, "dtd": 0.0},
    }
    tau = tvcodec.open("bank.tvq").task_vector("cars")
    merged, base = load_file("new.safetensors"), base_state()
    for name in tau:
        torch.testing.assert_close(merged[name], base[name] + 0.4 * tau[name])
    assert torch.equal(merged["steps"], base["steps"])


def test_merge_by_performance(here):
    Path("perf.json").write_text('{"cars": 0.9, "dtd": 0.4}')
    words = ("--weights", "perf.json", "--temperature", "0.5", "--json")
    weights = json.loads(succeeds(*MERGE, *words).stdout)["weights"]
    assert weights["cars"] / weights["dtd"] == pytest.approx(math.exp(1))


def test_merge_names_the_tasks_that_the_weights_leave_out(here):
    note = "note: not in --weights, left out: dtd\n"
    assert note in succeeds(*MERGE, "--weights", "cars=0.4").stderr
    for words in (("--weights", "cars=0.4,dtd=0"), ("--tasks", "cars")):
        assert "left out" not in succeeds(*MERGE, *words, "--force").stderr


def test_merge_of_a_subset(here):
    value = json.loads(succeeds(*MERGE, "--tasks", "dtd", "--json").stdout)
    assert value["weights"] == {"dtd": 1.0}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((), {}),
        (
            ("--weights", "cluster:2", "--negate", "dtd"),
            {"weights": "cluster:2", "negate": ["dtd"]},
        ),
        (("--method", "tsvm", "--exclude", "*.bias"), {"exclude": ["*.bias"]}),
        (
            ("--method", "tsvm", "--scaling", "cars=0.5,dtd=-1"),
            {"scaling": {"cars": 0.5, "dtd": -1}},
        ),
        (("--method", "iso-c", "--tasks", "dtd"), {"tasks": ["dtd"]}),
        (("--method", "ties", "--density", "0.5"), {"density": 0.5}),
        (("--method", "ties", "--scope", "parameter"), {"scope": "parameter"}),
        (("--method", "dare", "--rate", "0.5", "--seed", "7"), {"rate": 0.5, "seed": 7}),
        (
            ("--method", "consensus", "--threshold", "0.6", "--votes", "1"),
            {"threshold": 0.6, "votes": 1},
        ),
        (("--method", "magmax", "--scaling", "-0.5"), {"scaling": -0.5}),
        (("--method", "model-stock", "--scope", "model"), {"scope": "model"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_merge_by_every_method(here, words, asked):
    method = words[1] if words[:1] == ("--method",) else "weighted"
    command = (*seen(), *words)
    value = json.loads(succeeds(*command, "--json").stdout)
    assert value["method"] == method
    with tvcodec.open("seen.tvq") as bank:
        wanted = bank.merge(load_file("base.safetensors"), method=method, **asked)
        for name, tensor in load_file("new.safetensors").items():
            assert torch.equal(tensor, wanted[name])
        succeeds(*command, "--task-vector", "--force")
        tau = bank.merge(None, method=method, task_vector=True, **asked)
        found = load_file("new.safetensors")
        assert set(found) == set(tau)
        assert all(torch.equal(found[name], tau[name]) for name in tau)


def test_merge_without_the_base_model_gives_task_vectors_only(here):
    words = ("merge", seen()[1], "-o", "new.safetensors")
    assert "--base-model is missing (only --task-vector" in usage_error(*words)
    note = succeeds(*words, "--task-vector", "--method", "tsvm").stderr.splitlines()[-1]
    assert note == "wrote new.safetensors: tsvm of 2 tasks, scaling 1"


def test_merge_of_several_files(here):
    for task in ("cars", "dtd"):
        succeeds("encode", "base.safetensors", f"{task}=dtd.safetensors", "-o", f"{task}.tvq")
    words = ("merge", "dtd.tvq", "cars.tvq", *MERGE[2:])
    value = json.loads(succeeds(*words, "--json").stdout)
    assert value["weights"] == {"cars": 0.5, "dtd": 0.5}
    message, *_ = complaint(*words, "bank.tvq", "--force")
    assert message == "Error: task 'cars' is in cars.tvq and in bank.tvq"
    assert "no inner products" in complaint(*words, "--weights", "cluster:2", "--force")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--method tsvm --weights uniform", "--weights has no effect with --method tsvm"),
        ("--method ties --votes 2", "--votes has no effect with --method ties"),
        ("--density 0.2", "--density has no effect with --method weighted"),
        ("--method magmax --exclude x", "--exclude has no effect with --method magmax"),
        ("--method ties --temperature 2", "--temperature has no effect with --method ties"),
        ("--temperature 2", "--temperature has no effect without --weights FILE"),
        ("--weights cars=1 --temperature 2", "--temperature has no effect without"),
        ("--method average", "'average' is not one of 'weighted', 'tsvm'"),
        ("--method ties --density 2", "expected a density above 0 and up to 1, got 2.0"),
        ("--method dare --rate 1", "expected a drop rate of at least 0 and below 1, got 1.0"),
        ("--scaling cars=x", "scaling: expected TASK=NUMBER, got 'cars=x'"),
        ("--scaling much", "expected a number, got 'much'"),
    ],
)
def test_merge_refuses_options_that_mean_nothing(here, words, message):
    assert message in usage_error(*MERGE, *words.split())


@pytest.mark.parametrize(
    ("performance", "message", "hint"),
    [
        ('{"cars": 90, "dtd": 0.5}', "task 'cars': expected an accuracy in 0..1, got 90.0", "100"),
        ('{"cars": 0.9}', "expected an accuracy for every task, got none for dtd", "--tasks"),
        (
            '{"cars": "x"}',
            'perf.json: expected {"task": accuracy, ...}, got something else',
            "shares",
        ),
        ("cars", "perf.json: expected JSON, got", '{"cars": 0.85, "dtd": 0.78}'),
    ],
)
def test_merge_refuses_a_wrong_performance_file(here, performance, message, hint):
    Path("perf.json").write_text(performance)
    lines = complaint(*MERGE, "--weights", "perf.json")
    assert message in lines[0]
    assert hint in lines[-1]


def test_merge_refuses_weights_it_does_not_understand(here):
    assert complaint(*MERGE, "--weights", "boats=1") == (
        "Error: weights: no task 'boats'",
        "hint: there is cars, dtd",
    )
    assert "expected TASK=NUMBER, got 'cars=x'" in complaint(*MERGE, "--weights", "cars=x")[0]
    assert "task 'cars' is given twice" in complaint(*MERGE, "--weights", "cars=1,cars=2")[0]
    assert "no task 'boats'" in complaint(*MERGE, "--tasks", "cars,boats")[0]
    message, hint = complaint(*MERGE, "--weights", "perf.json")
    assert message == "Error: weights: perf.json: no such file"
    assert hint.startswith("hint: expected uniform, TASK=NUMBER")
    for number in ("1e300", "-1e7"):
        expected = f"expected a number in -1e+06..1e+06, got {float(number)}"
        assert expected in complaint(*MERGE, "--weights", f"cars={number}")[0]
        assert expected in complaint(*MERGE, "--scaling", number)[0]
    assert "expected a finite number, got inf" in usage_error(*MERGE, "--scaling", "inf")


# info


def test_info_tells_people(here):
    result = succeeds("info", "bank.tvq")
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    assert lines[0].startswith("bank.tvq: 2 tasks, ")
    assert lines[1] == "base model  5 parameters, 10,242 values"
    assert max(map(len, lines)) <= 80
    for word in ("bits/param", "kind", "similarity", "task indexes", "auto, "):
        assert word in result.stdout


def test_info_tells_machines(here):
    value = json.loads(succeeds("info", "bank.tvq", "--json").stdout)
    assert list(value) == INFO_KEYS
    assert value["bytes"] == os.path.getsize("bank.tvq") == sum(value["bytes_by_kind"].values())
    assert list(value["base_model"]) == ["sha256", "parameters", "values"]
    keys = ["task", "bytes", "bits_per_parameter", "error", "norm", "recipe"]
    assert [list(task) for task in value["tasks"]] == [keys, keys]
    bits = sum(task["bits_per_parameter"] for task in value["tasks"])
    assert bits == pytest.approx(8 * value["bytes"] / value["base_model"]["values"])
    assert [len(row) for row in value["similarity"]] == [1, 2]
    assert value["similarity"][1][1] == pytest.approx(1)
    assert abs(value["similarity"][1][0]) < 0.2


def test_info_agrees_with_encode(here):
    encoded = json.loads(succeeds(*ENCODE, "--json").stdout)
    shown = json.loads(succeeds("info", "new.tvq", "--json").stdout)
    assert shown["root"] == encoded["root"]
    for one, other in zip(shown["tasks"], encoded["tasks"], strict=True):
        assert one["bits_per_parameter"] == pytest.approx(other["bits_per_parameter"])
        assert one["error"] == pytest.approx(other["error"], rel=1e-6)
        assert one["bytes"] == other["bytes"]


def test_info_lists_parameters(here):
    text = succeeds("info", "bank.tvq", "--parameters", "--task", "cars").stdout
    assert text.splitlines()[1].split() == ["bits", "error", "gain", "noise", "parts", "parameter"]
    assert text.splitlines()[-2] == "unchanged: 1 parameter"
    words = ("info", "bank.tvq", "--parameters", "--json")
    rows = json.loads(succeeds(*words).stdout)["parameters"]
    keys = ["task", "parameter", "parts", "bytes", "bits", "error", "gain", "noise", "norm"]
    assert all(list(row) == keys for row in rows)
    parts = {(row["task"], row["parameter"]): row["parts"] for row in rows}
    assert parts["cars", "layer.0.bias"] == "small"
    assert parts["dtd", "steps"] == "kept whole"
    for row in rows:
        if row["error"] is not None:
            assert row["noise"] == pytest.approx(
                max(0, row["error"] ** 2 - (1 - row["gain"]) ** 2), abs=1e-9
            )


def test_info_lists_what_is_more_than_a_task_vector(here):
    odd = tuned(
        3,
        head__weight=torch.cat([tuned(3)["head.weight"], torch.ones(2, 96)]),
        extra=torch.ones(3),
        layer__0__bias=None,
    )
    succeeds(*encode_of(odd))
    rows = json.loads(succeeds("info", "new.tvq", "--parameters", "--json").stdout)["parameters"]
    parts = [(row["parameter"], row["parts"]) for row in rows]
    assert ("extra", "added, kept whole") in parts
    assert ("head.weight", "2 extra rows") in parts
    assert ("layer.0.bias", "missing from the fine-tune") in parts
    succeeds("info", "new.tvq", "--parameters")


def test_info_of_very_many_tasks_reads_no_task_index(here, monkeypatch):
    monkeypatch.setattr(sys.modules["tvcodec.cli.info"], "INDEX_BYTES", 0)
    value = json.loads(succeeds("info", "bank.tvq", "--json").stdout)
    assert value["bytes"] == sum(value["bytes_by_kind"].values())
    assert value["bytes_by_kind"]["sections"]
    assert "--kinds tells them apart" in succeeds("info", "bank.tvq").stdout
    assert "sections" not in succeeds("info", "bank.tvq", "--kinds").stdout


def test_info_of_more_tasks_than_a_matrix_shows(here, monkeypatch):
    monkeypatch.setattr(sys.modules["tvcodec.cli.info"], "MATRIX_TASKS", 1)
    assert "the 1 most similar pairs" in succeeds("info", "bank.tvq").stdout


def test_sizes_of_info_add_up(here):
    value = json.loads(succeeds("info", "bank.tvq", "--json").stdout)
    common = value["bytes"] - sum(task["bytes"] for task in value["tasks"])
    rows = [line.split() for line in succeeds("info", "bank.tvq").stdout.splitlines()]
    (row,) = (row for row in rows if row[:1] == ["(common)"])
    assert common > 500
    assert row[1:] == importlib.import_module("tvcodec.cli.printing").amount(common).split()


def test_diagnostics_are_indented(here):
    text = succeeds("info", "bank.tvq", "--diagnostics").stdout
    assert text.startswith('{\n  "summary": {\n    "num_parameters": 4,')
    assert text == json.dumps(json.loads(text), indent=2) + "\n"


def test_info_of_one_task(here):
    succeeds(*ENCODE)
    assert "similarity" not in succeeds("info", "new.tvq").stdout.replace("similarity  ", "")
    assert json.loads(succeeds("info", "new.tvq", "--json").stdout)["similarity"] == [[1.0]]


def test_a_pinned_root(here):
    root = json.loads(succeeds("info", "bank.tvq", "--json").stdout)["root"]
    succeeds("info", "bank.tvq", "--expect-root", root)
    succeeds("verify", "bank.tvq", "--expect-root", root.upper())
    for command in ("info", "verify"):
        message, hint = complaint(command, "bank.tvq", "--expect-root", 64 * "0")
        assert message == f"Error: bank.tvq: expected root {64 * '0'}, got {root}"
        assert hint == "hint: this is not the file that was pinned"


@pytest.mark.parametrize("text", ["00", "", 63 * "a", 65 * "a", 63 * "a" + "g", "head -c"])
def test_a_pinned_root_is_a_digest(here, text):
    message = f"expected 64 hexadecimal digits, got {text!r}"
    for words in (("info", "bank.tvq"), ("remove", "bank.tvq", "cars"), MERGE):
        assert message in usage_error(*words, "--expect-root", text)


def test_info_refuses_usage_that_does_nothing(here):
    assert "--task goes with --parameters" in usage_error("info", "bank.tvq", "--task", "cars")
    assert "no task 'x'" in complaint("info", "bank.tvq", "--parameters", "--task", "x")[0]


def test_no_file_commands_the_terminal(here):
    name = "evil\x1b[2J\n.tvq"
    Path(name).write_bytes(b"not one")
    message = complaint("info", name)[0]
    assert message.startswith(r"Error: evil\x1b[2J\n.tvq: expected a .tvq file")


# verify


def test_verify_checks_every_byte(here):
    result = succeeds("verify", "bank.tvq")
    first, root, content = result.stdout.splitlines()
    assert first.startswith("bank.tvq: 2 tasks, ")
    assert first.endswith(": all checksums hold")
    value = json.loads(succeeds("verify", "bank.tvq", "--json").stdout)
    assert list(value) == ["path", "root", "content", "tasks", "against"]
    assert (root, content) == (f"root     {value['root']}", f"content  {value['content']}")
    assert value["root"] == json.loads(succeeds("info", "bank.tvq", "--json").stdout)["root"]
    assert len(value["content"]) == 64
    damaged = bytearray(Path("bank.tvq").read_bytes())
    damaged[80] ^= 1
    Path("damaged.tvq").write_bytes(damaged)
    message, hint = complaint("verify", "damaged.tvq")
    assert message == "Error: damaged.tvq: task 'cars', small parameters: checksum mismatch"
    assert "damaged" in hint


@pytest.mark.parametrize("quality", [("--quality", "small"), ("--step", "1.5"), ("--exact",)])
def test_verify_measures_errors_again(here, quality):
    rows = torch.cat([tuned(3)["head.weight"], torch.ones(2, 96)])
    odd = tuned(3, head__weight=rows, extra=torch.ones(3), layer__0__bias=None)
    succeeds(*encode_of(odd), "cars=cars.safetensors", *quality)
    words = ("verify", "new.tvq", "--base-model", "base.safetensors", "--json")
    against = ("--against", "cars=cars.safetensors", "--against", "odd=odd.safetensors")
    value = json.loads(succeeds(*words, *against).stdout)
    for task in value["against"]:
        assert list(task) == ["task", "recorded", "measured", "differences"]
        assert task["measured"] == pytest.approx(task["recorded"], rel=1e-3)


def test_verify_finds_another_original(here):
    words = ("verify", "bank.tvq", "--base-model", "base.safetensors")
    result = run(*words, "--against", "cars=dtd.safetensors")
    assert result.exit_code == 1
    assert "differ" in result.stdout
    assert "Error: task 'cars': parameter 'head.weight': norm: expected " in result.stderr
    assert "parameter 'steps': expected the same bits, got others" in result.stderr


def test_verify_refuses_wrong_usage(here):
    together = "--base-model and --against go together"
    assert together in usage_error("verify", "bank.tvq", "--base-model", "base.safetensors")
    assert together in usage_error("verify", "bank.tvq", "--against", "cars=cars.safetensors")
    words = ("verify", "bank.tvq", "--base-model", "base.safetensors", "--against")
    assert "no task 'boats'" in complaint(*words, "boats=cars.safetensors")[0]
    wrong = ("verify", "bank.tvq", "--base-model", "dtd.safetensors", "--against")
    assert "not the base model of bank.tvq" in complaint(*wrong, "cars=cars.safetensors")[0]


# help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_examples_of_help_work(models, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "cars", "better-cars", "pets"):
        Path(name).mkdir()
        state = models / ("base.safetensors" if name == "base" else "cars.safetensors")
        Path(name, "model.safetensors").symlink_to(state)
    Path("dtd.safetensors").symlink_to(models / "dtd.safetensors")
    Path("base.safetensors").symlink_to(models / "base.safetensors")
    Path("mnist.safetensors").symlink_to(models / "dtd.safetensors")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    Path("evaluate.py").write_text("import sys; print(open(sys.argv[1], 'rb') and 0.5)")
    Path("perf.json").write_text('{"cars": 0.9, "dtd": 0.4, "style": 0.5}')
    tunes = {"cars": "cars", "dtd": "dtd.safetensors", "style": "cars"}
    tvcodec.encode("base", tunes, "damaged.tvq")
    if command == "import":
        succeeds("export", "damaged.tvq", "--format", "safetensors", "-o", "bank.safetensors")
    text = succeeds(*command.split(), "--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    lines = text.replace("\\\n", "").splitlines()
    examples = [shlex.split(line)[1:] for line in lines if line.startswith("    tvcodec ")]
    assert examples
    for words in examples:
        shutil.copy("damaged.tvq", "bank.tvq")
        succeeds(*words, *["--force"] * (words[0] in ("encode", "import", "tune")))


# add, remove, salvage


def own_copy(name="own.tvq"):
    """A copy of the bank, to change."""
    Path(name).write_bytes(Path("bank.tvq").read_bytes())
    return name


def test_add_puts_a_task_among_the_others(here):
    own = own_copy()
    result = succeeds("add", own, "base.safetensors", "pets=cars.safetensors")
    header, _, pets = result.stdout.splitlines()
    assert header.split("  ")[0] == "task"
    assert pets.split()[0] == "pets"
    assert f"\nwrote {own}: " in "\n" + result.stderr
    assert ", 1 new task\n" in result.stderr
    names = ("cars=cars.safetensors", "dtd=dtd.safetensors", "pets=cars.safetensors")
    succeeds("encode", "base.safetensors", *names, "-o", "all.tvq")
    assert Path(own).read_bytes() == Path("all.tvq").read_bytes()
    value = json.loads(succeeds("info", own, "--json").stdout)
    assert value["similarity"][2] == pytest.approx([1, value["similarity"][1][0], 1], abs=1e-6)


@pytest.mark.parametrize("quality", [("--exact",), ("--step", "2", "--metric", "function")])
def test_add_takes_what_encode_takes(here, quality):
    succeeds("encode", "base.safetensors", "cars=cars.safetensors", "-o", "own.tvq", *quality)
    words = ("dtd=dtd.safetensors", "--jobs", "2", "--json", *quality)
    value = json.loads(succeeds("add", "own.tvq", "base.safetensors", *words).stdout)
    assert list(value) == ["path", "bytes", "root", "tasks"]
    assert [task["name"] for task in value["tasks"]] == ["dtd"]
    succeeds(*ENCODE, "dtd=dtd.safetensors", *quality)
    assert Path("own.tvq").read_bytes() == Path("new.tvq").read_bytes()


def test_add_offers_every_option_of_encode(here):
    options = [line.split() for line in succeeds("encode", "--help").stdout.splitlines()]
    shown = succeeds("add", "--help").stdout
    for words in options:
        if words and words[0].startswith("--") and words[0] not in ("--masks", "--cluster"):
            assert words[0] in shown, words[0]
    assert "exclude each other" in usage_error(
        "add", "bank.tvq", "base.safetensors", "a=cars.safetensors", "--exact", "--step", "1"
    )


def test_add_refuses_what_does_not_fit(here):
    own = own_copy()
    message, hint = complaint("add", own, "base.safetensors", "cars=dtd.safetensors")
    assert message == f"Error: {own}: has a task 'cars'"
    assert hint == "hint: --replace replaces it"
    message, hint = complaint("add", own, "dtd.safetensors", "pets=cars.safetensors")
    assert f"dtd.safetensors: not the base model of {own}: 5 of 5 parameters differ: " in message
    assert "use the base model" in hint
    words = ("add", own, "base.safetensors", "pets=cars.safetensors", "-o", own_copy("new.tvq"))
    assert complaint(*words)[0] == "Error: new.tvq: exists already"
    assert "twice" in usage_error(
        "add", own, "base.safetensors", "a=cars.safetensors", "a=dtd.safetensors"
    )
    assert Path(own).read_bytes() == Path("bank.tvq").read_bytes()
    succeeds("add", own, "base.safetensors", "cars=dtd.safetensors", "--replace")
    index = json.loads(succeeds("info", own, "--json").stdout)["tasks"]
    assert [task["task"] for task in index] == ["cars", "dtd"]
    assert index[0]["norm"] == index[1]["norm"]


def test_remove_takes_tasks_out(here):
    own = own_copy()
    result = succeeds("remove", own, "cars")
    assert result.stdout == ""
    assert result.stderr.startswith(f"wrote {own}: ")
    assert result.stderr.endswith(", 1 task\n")
    succeeds("encode", "base.safetensors", "dtd=dtd.safetensors", "-o", "rest.tvq")
    assert Path(own).read_bytes() == Path("rest.tvq").read_bytes()
    value = json.loads(succeeds("remove", "bank.tvq", "dtd", "-o", "new.tvq", "--json").stdout)
    assert list(value) == ["path", "bytes", "root", "tasks", "common_bytes"]
    assert (value["path"], value["tasks"]) == ("new.tvq", ["cars"])
    assert "no task 'dtd'" in complaint("remove", "new.tvq", "dtd")[0]
    message, hint = complaint("remove", "new.tvq", "cars")
    assert message == "Error: new.tvq: expected a task to be left, got none"
    assert hint == "hint: a file holds one task or more: delete it instead"


def test_salvage_says_what_was_lost(here):
    damaged = bytearray(Path("bank.tvq").read_bytes())
    damaged[80] ^= 1
    Path("damaged.tvq").write_bytes(damaged)
    result = run("salvage", "damaged.tvq", "-o", "new.tvq")
    assert result.exit_code == 3
    assert result.stdout == ""
    lost, wrote = result.stderr.splitlines()
    assert lost == "lost: cars: task 'cars', small parameters: checksum mismatch"
    assert wrote.startswith("wrote new.tvq: ")
    assert wrote.endswith(", 1 task")
    succeeds("verify", "new.tvq")
    result = run("salvage", "damaged.tvq", "-o", "new.tvq", "--force", "--json")
    assert result.exit_code == 3
    value = json.loads(result.stdout)
    assert list(value) == ["written", "lost", "notes"]
    assert (value["written"]["tasks"], list(value["lost"])) == (["dtd"], ["cars"])
    Path("cut.tvq").write_bytes(damaged[:-1000])
    message, hint = complaint("salvage", "cut.tvq", "-o", "none.tvq")
    assert message.startswith("Error: cut.tvq: its root index is damaged or missing")
    assert "fetch the file again" in hint
    assert succeeds("salvage", "bank.tvq", "-o", "same.tvq").stderr.endswith(", 2 tasks\n")
    assert Path("same.tvq").read_bytes() == Path("bank.tvq").read_bytes()


# real processes


def process(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_what_needs_no_torch_does_not_import_it(here):
    code = (
        "import sys\nfrom tvcodec.cli import main\n"
        "for words in (['info', 'bank.tvq'], ['info', 'bank.tvq', '--parameters', '--json'],"
        " ['verify', 'bank.tvq'], ['--help'], ['encode', '--help'], ['merge', '--help'],"
        " ['decode', '--help'], ['add', '--help'], ['remove', 'bank.tvq', 'cars', '-o', 'r.tvq'],"
        " ['salvage', 'bank.tvq', '-o', 's.tvq']):\n"
        "    try:\n        main(words, prog_name='tvcodec')\n"
        "    except SystemExit as end:\n        assert not end.code, end.code\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    result = process("-c", code)
    assert result.returncode == 0, result.stderr


def test_the_garbage_collector_looks_at_nothing_of_torch(here):
    code = (
        "import gc, sys\nfrom tvcodec.cli import main\n"
        f"main({MERGE}, standalone_mode=False)\n"
        "assert gc.isenabled()\n"
        "assert not any(one is sys.modules['torch'].nn.Linear for one in gc.get_objects())"
    )
    done = process("-c", code)
    assert done.returncode == 0, done.stderr


def test_mistakes_in_paths_are_found_before_torch_is_imported(here):
    code = (
        "import sys\nfrom tvcodec.cli import main\n"
        "base, lost = '--base-model', 'lost.safetensors'\n"
        "for words in (['encode', lost, 'cars=cars.safetensors', '-o', 'new.tvq'],"
        " ['encode', 'base.safetensors', f'cars={lost}', '-o', 'new.tvq'],"
        " ['encode', 'base.safetensors', 'cars=cars.safetensors', '-o', f'{lost}/new.tvq'],"
        " ['encode', 'base.safetensors', 'cars=cars.safetensors', '-o', lost],"
        " ['add', 'bank.tvq', lost, 'pets=cars.safetensors'],"
        " ['decode', 'bank.tvq', 'cars', base, lost, '-o', 'new'],"
        " ['decode', lost, 'cars', base, 'base.safetensors', '-o', 'new'],"
        " ['merge', 'bank.tvq', lost, base, 'base.safetensors', '-o', 'new'],"
        " ['verify', 'bank.tvq', base, 'base.safetensors', '--against', f'cars={lost}']):\n"
        "    try:\n        main(words, prog_name='tvcodec')\n"
        "    except SystemExit as end:\n        assert end.code == 1, words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    result = process("-c", code)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: lost.")]
    assert len(lines) == 9


def test_as_a_module(here):
    result = process("-m", "tvcodec", "info", "nowhere.tvq")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "Error: nowhere.tvq: no such file or directory\n"
    result = process("-m", "tvcodec", "--version")
    assert result.stdout == f"tvcodec {tvcodec.__version__}\n"


def test_a_closed_pipe_is_quiet(here):
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tvcodec", "info", "bank.tvq", "--parameters"]
    result = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert result.stderr == b""


def test_an_interrupt_from_the_keyboard(here):
    code = (
        "import os, signal, tvcodec.encoding.survey as survey\nfrom tvcodec.cli import main\n"
        "survey._identify = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "main(prog_name='tvcodec')"
    )
    before = sorted(os.listdir())
    result = children.run(code, *ENCODE)
    assert result.returncode == 130 != -signal.SIGINT
    assert result.stderr == "Error: interrupted, nothing was written\n"
    assert sorted(os.listdir()) == before


def test_an_interrupt_in_the_middle_of_an_encode(here):
    """Of the real models of the sample, once its output is under way."""
    with tvcodec.open(SAMPLE / "fine-tunes.tvq") as sample:
        for task in ("mnist", "style"):
            sample.decode(task, SAMPLE / "base.safetensors").save(f"{task}.safetensors")
    Path("new.tvq").write_text("precious")
    before = sorted(os.listdir())
    words = ["mnist=mnist.safetensors", "style=style.safetensors", "-o", "new.tvq", "--force"]
    command = ["encode", SAMPLE / "base.safetensors", *words, "--max-error", "0.01"]
    child = children.Child(PROGRAM, *command)
    while child.running and sorted(os.listdir()) == before:
        time.sleep(0.02)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    result = child.wait()
    assert (result.stdout, result.stderr) == ("", "Error: interrupted, nothing was written\n")
    assert result.returncode == 130
    assert sorted(os.listdir()) == before
    assert Path("new.tvq").read_text() == "precious"


@pytest.mark.parametrize("words", [DECODE, (*DECODE[:-1], "new"), MERGE])
def test_an_interrupt_in_the_middle_of_an_output(here, words):
    code = (
        "import os, signal\nfrom tvcodec.cli import main\n"
        "from tvcodec.decoding.model import Model\n"
        "computed, seen = Model._computed, []\n"
        "def interrupted(model, name):\n"
        "    seen.append(name)\n"
        "    if len(seen) == 3:\n"
        "        assert any(name.endswith('.tmp') for name in os.listdir()), os.listdir()\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return computed(model, name)\n"
        "Model._computed = interrupted\n"
        "main(prog_name='tvcodec')"
    )
    before = sorted(os.listdir())
    result = children.run(code, *words)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr == "Error: interrupted, nothing was written\n"
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("words", [ENCODE, DECODE, (*DECODE[:-1], "new"), MERGE])
def test_a_full_disk_is_named_and_leaves_nothing(here, words):
    """A limit on the size of files stands for it: the same calls fail."""
    before = sorted(os.listdir())
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    result = children.run(limit + PROGRAM, *words)
    assert (result.returncode, result.stdout) == (1, "")
    file = "new/model.safetensors" if words[-1] == "new" else words[-1]
    assert result.stderr == f"Error: {file}: file too large\n"
    assert sorted(os.listdir()) == before


def test_progress_is_for_terminals_and_has_phases(monkeypatch):
    progress = sys.modules["tvcodec.cli.progress"]
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "DELAY", 0)
    with progress.progress(("reading", 10), ("encoding", None)) as advance:
        for _ in range(4):
            time.sleep(0.15)
            advance(5)
    shown = screen.getvalue()
    assert "reading:  50%" in shown
    assert "encoding: 5.00 values" in shown
    assert "\x1b" not in shown


def test_progress_shows_before_anything_is_done_and_leaves_nothing(monkeypatch):
    progress = sys.modules["tvcodec.cli.progress"]
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.progress(("reading", 10)) as advance:
        advance(1)
    assert screen.getvalue() == ""  # which was too quick for a bar
    monkeypatch.setattr(progress, "DELAY", 0.01)
    with progress.progress(("reading", 10)):
        while not screen.getvalue():
            time.sleep(0.01)
    *_, shown, after = screen.getvalue().split("\r")[:-1]
    assert "reading:   0%" in shown
    assert after.strip() == ""
