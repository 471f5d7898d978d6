"""What a shell offers behind Tab."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from small_models import normal

import tvcodec
from tvcodec.cli import main

TOP = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    base = {"weight": normal(0, 8, 8)}
    path = tmp_path_factory.mktemp("banks") / "bank.tvq"
    tunes = {task: {"weight": base["weight"] + 1} for task in ("cars", "cats", "dogs")}
    tvcodec.encode(base, tunes, path)
    return str(path)


def offered(*words):
    """(kind, text) of what is offered for the last word."""
    *before, last = words
    complete = BashComplete(main, {}, "tvcodec", "_TVCODEC_COMPLETE")
    return [(item.type, item.value) for item in complete.get_completions(before, last)]


def names(*words):
    found = offered(*words)
    assert {kind for kind, _ in found} <= {"plain"}
    return [text for _, text in found]


def test_tasks_of_the_file_are_offered(bank):
    assert names("decode", bank, "") == ["cars", "cats", "dogs"]
    assert names("decode", bank, "ca") == ["cars", "cats"]
    assert names("decode", bank, "x") == []
    assert names("export", bank, "do") == ["dogs"]
    assert names("info", bank, "--parameters", "--task", "d") == ["dogs"]
    assert names("remove", bank, "cars", "") == ["cats", "dogs"]
    assert names("merge", bank, "--negate", "dogs", "--negate", "") == ["cars", "cats"]


def test_tasks_in_a_list_are_offered_one_by_one(bank):
    assert names("merge", bank, "--tasks", "") == ["cars", "cats", "dogs"]
    assert names("merge", bank, "--tasks", "cars,") == ["cars,cats", "cars,dogs"]
    assert names("merge", bank, "--tasks", "dogs,cat") == ["dogs,cats"]


def test_weights_are_offered_task_by_task_where_no_file_can_be_meant(bank):
    assert names("merge", bank, "--weights", "ca") == ["cars=", "cats="]
    assert names("merge", bank, "--weights", "cars=0.2,") == ["cars=0.2,cats=", "cars=0.2,dogs="]
    assert names("merge", bank, "--weights", "dogs=1,cats=0.2,c") == ["dogs=1,cats=0.2,cars="]
    assert offered("merge", bank, "--weights", "")[0][0] == "file"


def test_commands_are_offered_with_what_help_says_of_them_in_its_order(capsys):
    main(["--help"], standalone_mode=False)
    lines = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
    complete = BashComplete(main, {}, "tvcodec", "_TVCODEC_COMPLETE")
    items = complete.get_completions([], "")
    assert [(item.value, item.help) for item in items] == [
        tuple(line.split(maxsplit=1)) for line in lines
    ]
    assert items[0].value == "encode"


def test_choices_are_offered(bank):
    assert names("encode", "--quality", "") == ["small", "balanced", "high"]
    assert names("add", "--metric", "f") == ["function"]
    assert names("merge", bank, "--method", "i") == ["iso-c"]
    assert names("encode", "--recipe", "t") == ["tvq", "tall", "tsv-c"]


@pytest.mark.parametrize(
    "words",
    [
        ("info", "b"),
        ("salvage", "b"),
        ("merge", "some.tvq", "b"),
        ("merge", "some.tvq", "--weights", "b"),
        ("encode", "b"),
        ("encode", "base", "cars=b"),
        ("encode", "-o", "b"),
        ("encode", "--config", "b"),
        ("add", "some.tvq", "b"),
        ("decode", "some.tvq", "cars", "--base-model", "b"),
        ("decode", "some.tvq", "cars", "-o", "b"),
        ("verify", "some.tvq", "--against", "cars=b"),
        ("tune", "base", "cars=b"),
        ("tune", "-o", "b"),
        ("report", "some.tvq", "-o", "b"),
        ("export", "some.tvq", "cars", "-o", "b"),
        ("import", "b"),
        ("copy", "some.tvq", "b"),
        ("decode", "some.tvq", "cars", "--base-model=b"),
    ],
)
def test_files_are_left_to_the_shell(words):
    assert [kind for kind, _ in offered(*words)] == ["file"]


def test_nothing_is_offered_where_the_file_cannot_be_read(bank, tmp_path, capfd):
    damaged = tmp_path / "damaged.tvq"
    damaged.write_bytes(Path(bank).read_bytes()[:-1])
    for path in (str(damaged), str(tmp_path), "nowhere.tvq", ""):
        assert offered("decode", path, "") == []
    assert capfd.readouterr() == ("", "")


def asked(code, *words):
    """What a program does when the shell asks it, as it asks."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(TOP),
        "_TVCODEC_COMPLETE": "bash_complete",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def completed(*words):
    """What the command prints then."""
    code = "import sys\nfrom tvcodec.cli import main\ntry:\n    main(prog_name='tvcodec')\n"
    code += "finally:\n    assert 'torch' not in sys.modules"
    return asked(code, *words)


def test_the_command_answers_a_shell_without_importing_torch(bank):
    result = completed("tvcodec", "decode", bank, "ca")
    assert (result.stdout, result.stderr) == ("plain,cars\nplain,cats\n", "")
    assert completed("tvcodec", "decode", "nowhere.tvq", "ca").stderr == ""


def test_bash_completes(bank, tmp_path):
    command = tmp_path / "tvcodec"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tvcodec "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(_TVCODEC_COMPLETE=bash_source tvcodec)"\n'
        f"COMP_WORDS=(tvcodec decode '{bank}' ca)\nCOMP_CWORD=3\n"
        "_tvcodec_completion tvcodec\n"
        'echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(TOP)}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("cars cats\n", "")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("--base-model", "=", "b"), "file,b\n"),
        (("--base-model", "="), "file,\n"),
        (("--tasks", "=", "cars,c"), "plain,cars,cats\n"),
        (("--weights", "=", "cars", "=", "0.2,c"), "plain,0.2,cats=\n"),
        (("--weights", "cars", "=", "0.2,dogs", "=", "1,"), "plain,1,cats=\n"),
        (("--negate", "=", "do"), "plain,dogs\n"),
        (("--method", "=", "iso"), "plain,iso-c\n"),
    ],
)
def test_bash_which_splits_words_at_each_equals_sign_gets_what_stands_behind_it(
    bank, words, answer
):
    assert completed("tvcodec", "merge", bank, *words).stdout == answer


def test_an_interrupted_completion_is_silent(bank):
    code = (
        "import os, signal, sys\nfrom tvcodec.cli import completion, main\n"
        "completion._known = lambda ctx: os.kill(os.getpid(), signal.SIGINT)\n"
        "main(prog_name='tvcodec')"
    )
    done = asked(code, "tvcodec", "decode", bank, "ca")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script(shell, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(TOP),
        "_TVCODEC_COMPLETE": f"{shell}_source",
    }
    command = [sys.executable, "-m", "tvcodec"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"_TVCODEC_COMPLETE={shell}_complete" in done.stdout
