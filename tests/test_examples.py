"""Every example in README and spec/ works as it is written, though its names are made up.

Console and Python examples are run by tools/refresh_readme.py on the sample. What is here: command
lines of a shell in small models of the names that they use, against servers of our own; options and
commands in running text; and that no block is left out.
"""

import json
import re
import shlex
import shutil
from subprocess import CalledProcessError

import pytest
import yaml
from distributed import LocalCluster
from doc_examples import DOCUMENTS, TOP, blocks, command_lines, run, shell
from refresh_readme import NAMED, REFRESHED
from safetensors.torch import save_file
from small_models import normal
from test_remote import Web, data, store, web  # noqa: F401 - fixtures

import tvcodec
from tvcodec.cli import COMMANDS, main

SHAPES = {"layer.0.weight": (24, 16), "layer.0.bias": (24,), "head.weight": (8, 24)}
BASE = {name: normal(seed, *shape) for seed, (name, shape) in enumerate(SHAPES.items())}
SAVED_IN_PART = 3
EXAMPLES = [
    pytest.param(document, body, id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, (language, body) in enumerate(blocks(document.read_text()))
    if language in ("sh", "bash")
]
EVALUATE = """
import sys
model, task = sys.argv[1:]
assert task in ("mnist", "style")
print(len(open(model, "rb").read()) and 0.75)
"""
SOURCE = 'source() { grep -q -- "--command tvcodec"; }\n'  # fish has a word of that name
# Options of other programs that the documents name.
FOREIGN = {
    *("--out-shard-size", "--copy-tokenizer"),
    *("--base-model-path", "--checkpoint-dir", "--mask-dir", "--rtvq-stages", "--weighting"),
    *("--performance-file", "--cluster-k", "--store-artifacts", "--device"),
    "--only",  # of tools/fuzz
}


def tuned(seed):
    return {name: value + normal(seed, *value.shape, scale=0.01) for name, value in BASE.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the examples call things, all of it there."""
    place = tmp_path_factory.mktemp("world")
    settings = next(
        body for body in _bodies("yaml", TOP / "README.md") if "svd-hybrid.yaml" in body
    )
    (place / "svd-hybrid.yaml").write_text(settings)
    tasks = yaml.safe_load(settings)["tasks"]
    for name in ("checkpoints", "masks", "base", "cars", "tools/sample", "fine-tunes"):
        (place / name).mkdir(parents=True)
    save_file(BASE, place / "base.safetensors")
    for seed, task in enumerate(tasks, 10):
        save_file(tuned(seed), place / f"checkpoints/{task}.safetensors")
        important = {name: value > 0 for name, value in tuned(seed + 50).items()}
        save_file(important, place / f"masks/{task}.safetensors")
    (place / "accuracies.json").write_text(json.dumps(dict.fromkeys(tasks, 0.8)))
    for seed, name in enumerate(("base", "cars")):
        save_file(BASE if name == "base" else tuned(seed), place / name / "model.safetensors")
        (place / name / "config.json").write_text(json.dumps({"name": name}))
    shutil.copy(place / "base.safetensors", place / "tools/sample")
    for seed, task in enumerate(("mnist", "style"), 30):
        save_file(tuned(seed), place / f"fine-tunes/{task}.safetensors")
    (place / "tools/sample/evaluate.py").write_text(EVALUATE)
    tunes = {"cars": place / "cars", "dtd": place / "fine-tunes/style.safetensors"}
    tvcodec.encode(place / "base", tunes, place / "bank.tvq", recipe=tvcodec.EXACT)
    with tvcodec.open(place / "bank.tvq") as bank:
        _, at = next(iter(bank.archive.sections("dtd")))
    damaged = bytearray((place / "bank.tvq").read_bytes())
    damaged[at] ^= 1
    (place / "damaged.tvq").write_bytes(damaged)
    line = "tvcodec export bank.tvq cars --base-model base/ --format peft --rank 2 -o cars-lora/"
    run(line, place)
    return place


@pytest.fixture(scope="module")
def cluster():
    """The address of a dask scheduler with a worker."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        host="127.0.0.1",
        protocol="tcp",
        dashboard_address=None,
    ) as local:
        yield local.scheduler_address


@pytest.fixture
def place(world, tmp_path):
    """A copy of it to write into."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _bodies(language, document):
    return [body for found, body in blocks(document.read_text()) if found == language]


def made_real(line, request, place):
    """The line with a server of ours for each made-up one; whatever else it reads is in `place`."""
    if "https://example.org" in line:
        web = request.getfixturevalue("web")
        web.files["/bank.tvq"] = (place / "bank.tvq").read_bytes()
        line = line.replace("https://example.org", web.url)
    if "s3://models" in line:
        request.getfixturevalue("store")
    if "tcp://HOST:8786" in line:
        line = line.replace("tcp://HOST:8786", request.getfixturevalue("cluster"))
    return line


@pytest.mark.parametrize(("document", "body"), EXAMPLES)
def test_a_shell_example_works(document, body, request, place):
    lines = command_lines(body)
    for name in outputs(lines):
        _remove(place / name)
    for line in lines:
        program = shlex.split(line, comments=True)[0]
        if program == "python" and "tools/bench" in line:
            check_options(line)
        elif "_COMPLETE=" in line:
            shell(f"{SOURCE}{line}\n[[ '{program}' != eval ]] || complete -p tvcodec", place)
        else:
            also = (SAVED_IN_PART,) if "tvcodec salvage" in line else ()
            run(made_real(line, request, place), place, also)
    for name in outputs(lines):
        assert (place / name).exists(), name


def outputs(lines):
    """What the lines write, none of which is to be there before."""
    found = (re.search(r" -o (\S+)", line) for line in lines)
    return [match[1] for match in found if match]


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_options(line):
    """That a program of tools/, which would run for long, is there and knows the options."""
    _, program, *words = shlex.split(line.replace("\\\n", " "), comments=True)
    source = (TOP / program).read_text()
    for word in words:
        assert not word.startswith("--") or f'"{word}"' in source, f"{word}: not of {program}"


def test_a_wrong_option_or_name_is_found(place):
    for line in (
        "tvcodec export bank.tvq cars --base-model base/ --forma peft -o out/",
        "tvcodec decode bank.tvq boats --base-model base/ -o out/",
        "tvcodec inf bank.tvq | cat",
    ):
        with pytest.raises(CalledProcessError):
            run(line, place)
    with pytest.raises(CalledProcessError):
        shell(f"{SOURCE}_TVCODEC_COMPLETE=fihs_source tvcodec | source", place)
    with pytest.raises(AssertionError, match="--tex4: not of"):
        check_options("python tools/bench/tune.py --tex4 DIR")
    assert outputs(["tvcodec x -o out/ # -o", "tvcodec y"]) == ["out/"]


def test_no_block_is_left_out():
    """Others than these are run by nobody."""
    for document in DOCUMENTS:
        for language, body in blocks(document.read_text()):
            assert language in ("sh", "bash", "console", "python", "yaml", "text"), document
            if language in ("console", "python", "yaml"):
                assert document in REFRESHED, document
            if language == "console":
                assert body.startswith("$ "), document
            if language == "yaml":
                assert NAMED.match(body), document
            if language == "text":
                assert "tvcodec " not in body, document
    assert len(EXAMPLES) >= 8


def test_the_sample_is_evaluated_as_the_example_says():
    """Which takes too long to be run for each of a dozen models."""
    (line,) = (line for _, body in _parameters() for line in command_lines(body) if "tune" in line)
    words = shlex.split(line.replace("\\\n", " "))
    assert words[words.index("--evaluate") + 1] == "python -m sample.evaluate {model} {task}"
    source = (TOP / "tools/sample/evaluate.py").read_text()
    assert "\npython -m sample.evaluate MODEL.safetensors TASK\n" in source
    assert (TOP / "tools/sample/base.safetensors").exists()


def _parameters():
    return [example.values for example in EXAMPLES if "using" in str(example.id)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_what_running_text_names_is_there(document):
    """Commands with their options, options by themselves, and programs of tools/."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    options = {"--help": {"--help"}, **{name: options_of(name) for name in COMMANDS}}
    known = set.union(*options.values()) | FOREIGN
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"(?<=\S)\n(?=\S)", " ", text)):
        words = code.removeprefix("tvcodec ").split()
        if code.startswith("python tools/"):
            check_options(code)
        elif code.startswith("tools/") and " " in code and "*" not in code:
            assert (TOP / words[0]).exists(), code
        elif code.startswith("tvcodec ") or (len(words) > 1 and words[0] in COMMANDS):
            assert words[0] in (*COMMANDS, "--help"), code
            given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert given <= options[words[0]], code
        elif code.startswith("--"):
            assert {word for word in words if word.startswith("--")} <= known, code


def options_of(name):
    command = main.get_command(None, name)
    options = {opt for one in command.params for opt in (*one.opts, *one.secondary_opts)}
    return options | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
        assert not anchor or anchor in slugs, target
