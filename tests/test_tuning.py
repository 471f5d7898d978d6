"""The smallest file that keeps a share of a score: the search, the command, what is kept."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from sample.evaluate import BASE_MODEL, FINE_TUNES, accuracy
from small_models import State, normal

import tvcodec
from tvcodec.cli import main
from tvcodec.errors import TvqError
from tvcodec.parameter.recipes import Recipe
from tvcodec.tuning import curve, search
from tvcodec.tuning.curve import Curve, Point
from tvcodec.tuning.evaluating import Command
from tvcodec.tuning.ledger import Ledger
from tvcodec.tuning.tune import tune

BASE: State = {"w": normal(0, 24, 640), "v": normal(1, 24)}
TUNES: dict[str, State] = {
    task: {
        "w": BASE["w"] + 0.3 * normal(seed, 24, 640),
        "v": BASE["v"] + 0.3 * normal(seed + 1, 24),
    }
    for task, seed in (("cars", 10), ("pets", 20))
}
ROWS = normal(2, 500, 640)
CURVE = Curve(
    0.9,
    0.75,
    False,
    (
        Point("mse", 2.0, 0.5, 0.0, 0.25, None, 0.0),
        Point("function", 1.5, 0.0, 6.0, 0.5, 0.7, 0.93),
    ),
    1,
)


def classified(state: tvcodec.Model | State) -> torch.Tensor:
    return (ROWS @ state["w"].T + state["v"]).argmax(1)


def agreement(model: tvcodec.Model, task: str) -> float:
    """The share of rows that a linear classifier puts where the fine-tune does."""
    return float((classified(model) == classified(TUNES[task])).double().mean())


def smooth_size(recipe: Recipe) -> int:
    """Squared error without gain takes half of what others do, factors half as much again."""
    least = recipe.metric == "mse" and not recipe.gain
    scale = 3 if recipe.factor_step else 1 if least else 2
    return int(scale * 1e6 * recipe.step**-1.5)


def searched(coarsest: dict[str, float], most: int = 99) -> tuple[Recipe | None, list[Recipe]]:
    """What is found where steps up to `coarsest` of a metric pass, and all that was tested."""
    tested: list[Recipe] = []

    def passes(recipe: Recipe) -> bool:
        if len(tested) == most:
            raise search.Spent
        tested.append(recipe)
        return recipe.step <= coarsest[recipe.metric]

    return search.smallest(smooth_size, passes), tested


@pytest.mark.parametrize("limit", [0.3, 0.9, 2.2, 3.0, 17.0])
def test_the_coarsest_step_that_passes_is_found_in_few_tests(limit: float) -> None:
    found, tested = searched({"function": limit, "mse": 0.01})
    assert found is not None
    assert found.metric == "function"
    assert limit / search.CLOSE <= found.step <= limit
    assert len(tested) <= 11
    assert len(set(tested)) == len(tested)


def test_a_line_that_is_smaller_is_followed_and_others_cost_one_test_each() -> None:
    found, tested = searched({"function": 2.0, "mse": 3.0})
    assert found is not None
    assert (found.metric, found.gain) == ("mse", 0)
    assert 3.0 / search.CLOSE <= found.step <= 3.0
    assert smooth_size(found) < min(smooth_size(one) for one in tested if one.metric != "mse")
    assert len([one for one in tested if one.factor_step]) <= 1
    assert len([one for one in tested if one.gain]) <= 1


def test_a_search_that_may_test_no_more_gives_the_best_so_far() -> None:
    limits = {"function": 2.0, "mse": 3.0}
    whole = searched(limits)[1]
    found, tested = searched(limits, most=3)
    assert tested == whole[:3]
    passed = [one for one in tested if one.step <= 2.0]
    assert found == min(passed, key=smooth_size)
    assert searched({"function": 0.0, "mse": 0.0})[0] is None


def test_a_tuned_sample_keeps_what_it_says_and_says_what_was_tried(tmp_path: Path) -> None:
    path = tmp_path / "bank.tvq"
    with tvcodec.open(FINE_TUNES) as bank:
        style = dict(bank.decode("style", BASE_MODEL))

    def evaluate(model: tvcodec.Model, task: str) -> float:
        return accuracy(model, task, rows=100)

    found = tune(BASE_MODEL, {"style": style}, evaluate, path=path, retain=0.97, max_evaluations=3)
    said = found.curves["style"]
    assert len(said.points) == 3
    assert said.reference == accuracy(style, "style", rows=100)
    enough = [point for point in said.points if point.share >= 0.97]
    assert said.choice == min(enough, key=lambda point: point.bits)
    with tvcodec.open(path) as bank:
        measured = accuracy(bank.decode("style", BASE_MODEL), "style", rows=100)
        stored = curve.from_metadata(bank.archive.index("style").metadata)
    assert measured == said.choice.score
    assert measured >= 0.97 * said.reference
    assert path.stat().st_size < 919_744 / 8  # a bit per parameter
    assert stored is not None
    assert stored.choice.score == pytest.approx(measured, rel=1e-5)
    assert [one.bits for one in stored.points] == pytest.approx(
        [one.bits for one in said.points], rel=1e-3
    )
    shown = CliRunner().invoke(main, ["info", str(path)]).stdout
    assert f"{measured:g}" in shown.split("settings tried")[1]
    described = json.loads(CliRunner().invoke(main, ["info", str(path), "--json"]).stdout)
    assert described["tasks"][0]["tuning"]["chosen"] == said.chosen
    assert len(described["tasks"][0]["tuning"]["points"]) == 3


def test_each_task_has_its_own_recipe_and_the_file_is_whole(tmp_path: Path) -> None:
    """One task is asked for much more than the other, by a score that punishes its errors."""
    path = tmp_path / "bank.tvq"

    def evaluate(model: tvcodec.Model, task: str) -> float:
        return agreement(model, task) ** (8 if task == "cars" else 1)

    found = tvcodec.tune(BASE, TUNES, evaluate, path=path, retain=0.95)
    cars, pets = found.curves["cars"].choice, found.curves["pets"].choice
    assert cars.bits > 1.3 * pets.bits
    assert found.summary.bytes == path.stat().st_size
    with tvcodec.open(path) as bank:
        bank.archive.verify()
        for task, point in (("cars", cars), ("pets", pets)):
            assert evaluate(bank.decode(task, BASE), task) == point.score
        assert bank.similarity()[0][1] == pytest.approx(0, abs=0.2)
    for task in found.summary.tasks:
        assert task.bits_per_parameter > found.curves[task.name].choice.bits


def test_a_loss_falls(tmp_path: Path) -> None:
    def loss(model: tvcodec.Model, task: str) -> float:
        return 1.5 - agreement(model, task)

    path, cars = tmp_path / "bank.tvq", {"cars": TUNES["cars"]}
    tuned = tune(BASE, cars, loss, path=path, retain=0.9, lower_is_better=True)
    found = tuned.curves["cars"]
    assert found.reference == 0.5
    assert found.choice.score is not None
    assert found.choice.share == 0.5 / found.choice.score >= 0.9
    assert any(point.share < 0.9 for point in found.points)


def test_a_model_without_any_error_left_is_the_best_and_a_negative_loss_is_refused(
    tmp_path: Path,
) -> None:
    def errors(model: tvcodec.Model, task: str) -> float:
        same = all(torch.equal(model[name], tensor) for name, tensor in TUNES[task].items())
        return 0.25 if same else 0.0

    path, cars = tmp_path / "bank.tvq", {"cars": TUNES["cars"]}
    tuned = tune(BASE, cars, errors, path=path, lower_is_better=True, max_evaluations=1)
    assert tuned.curves["cars"].choice.score == 0.0
    assert tuned.curves["cars"].choice.metric != "exact"
    with pytest.raises(TvqError, match=r"expected a loss of 0 or more, .* got -1"):
        tune(
            BASE,
            cars,
            lambda model, task: errors(model, task) or -1.0,
            path=tmp_path / "other.tvq",
            lower_is_better=True,
        )


def test_what_no_setting_keeps_is_stored_bit_for_bit(tmp_path: Path) -> None:
    def picky(model: tvcodec.Model, task: str) -> float:
        same = all(torch.equal(model[name], tensor) for name, tensor in TUNES[task].items())
        return 1.0 if same else float("nan")

    path = tmp_path / "bank.tvq"
    found = tune(BASE, {"cars": TUNES["cars"]}, picky, path=path, max_evaluations=2)
    assert [point.share for point in found.curves["cars"].points] == [0.0, 0.0, 1.0]
    assert found.curves["cars"].points[0].score is None
    assert found.curves["cars"].choice.metric == "exact"
    with tvcodec.open(path) as bank:
        assert picky(bank.decode("cars", BASE), "cars") == 1.0


@pytest.mark.parametrize(("score", "said"), [(0.0, "got 0"), (float("inf"), "no finite number")])
def test_a_fine_tune_without_a_score_to_share_is_refused(
    tmp_path: Path, score: float, said: str
) -> None:
    with pytest.raises(TvqError, match=f"'cars': expected a score .* above 0, .* {said}"):
        tune(BASE, {"cars": TUNES["cars"]}, lambda model, task: score, path=tmp_path / "a.tvq")
    assert not list(tmp_path.iterdir())


# Through the command line, with a command that knows no torch. It writes down what it is given, and
# kills whoever asked at the call whose number is in a file.
SCRIPT = """
import json, os, sys
from pathlib import Path
import numpy as np
model, task = sys.argv[1:3]
here = Path(__file__).parent
with open(here / "calls", "a") as calls:
    print(task, Path(model).name, *sorted(os.listdir(model)) if Path(model).is_dir() else [],
          file=calls)
deadly = here / "deadly"
if deadly.exists() and len((here / "calls").read_text().splitlines()) == int(deadly.read_text()):
    os.kill(os.getppid(), 9)
file = Path(model) / "model.safetensors" if Path(model).is_dir() else model
data, rows = Path(file).read_bytes(), np.load(here / "rows.npy")
start = 8 + int.from_bytes(data[:8], "little")
state = {}
for name, item in json.loads(data[8:start]).items():
    if name != "__metadata__":
        first, last = item["data_offsets"]
        values = np.frombuffer(data[start + first : start + last], "<f4")
        state[name] = values.reshape(item["shape"])
found = (rows @ state["w"].T + state["v"]).argmax(1)
print("done")
print((found == np.load(here / f"{task}.npy")).mean())
print("bye")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with models and the script."""
    monkeypatch.chdir(tmp_path)
    prepare()
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One where tuning has ended, and what it said."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        prepare()
        run = CliRunner().invoke(main, arguments("undisturbed.tvq"))
    assert run.exit_code == 0, run.stderr
    return place, run.stderr


def prepare() -> None:
    save_file(BASE, "base.safetensors")
    np.save("rows.npy", ROWS.numpy())
    for task, state in TUNES.items():
        np.save(f"{task}.npy", classified(state).numpy())
    save_file(TUNES["cars"], "cars.safetensors")
    Path("pets").mkdir()
    save_file(TUNES["pets"], "pets/model.safetensors")
    Path("pets/config.json").write_text('{"of": "pets"}')
    Path("score.py").write_text(SCRIPT)


def arguments(output: str, retain: str = "0.85") -> list[str]:
    command = f"{sys.executable} score.py {{model}} {{task}}"
    models = ["base.safetensors", "cars=cars.safetensors", "pets=pets"]
    few = ["--max-evaluations", "4"]
    return ["tune", *models, *few, "-o", output, "--retain", retain, "--evaluate", command]


def calls() -> list[str]:
    return Path("calls").read_text().splitlines()


def test_a_killed_run_goes_on_and_measures_nothing_twice(
    here: Path, finished: tuple[Path, str]
) -> None:
    undisturbed, said = finished
    wanted = (undisturbed / "calls").read_text().splitlines()
    assert wanted[:2] == ["cars model.safetensors", "pets model config.json model.safetensors"]
    assert len(wanted) >= 8
    assert len([line for line in said.splitlines() if " kept" in line]) == len(wanted)

    Path("deadly").write_text("6")
    program = "from tvcodec.cli import main; main(prog_name='tvcodec')"
    killed = children.run(program, *arguments("bank.tvq"))
    assert killed.returncode == -9
    assert not Path("bank.tvq").exists()
    Path("deadly").unlink()
    again = CliRunner().invoke(main, arguments("bank.tvq"))
    assert again.exit_code == 0, again.stderr
    assert len(calls()) == len(wanted) + 1  # one that was never answered
    assert Path("bank.tvq").read_bytes() == (undisturbed / "undisturbed.tvq").read_bytes()

    other = CliRunner().invoke(main, [*arguments("bank.tvq", "0.7"), "--force", "--json"])
    assert other.exit_code == 0, other.stderr
    value = json.loads(other.stdout)
    assert value["curves"]["cars"]["retain"] == 0.7
    assert value["bytes"] < (undisturbed / "undisturbed.tvq").stat().st_size
    assert len(calls()) - len(wanted) - 1 < len(wanted) - 2  # and no fine-tune again
    assert {path.suffix for path in here.iterdir() if path.name.startswith("bank")} == {
        ".tvq",
        ".jsonl",
    }


def test_a_model_whose_config_changed_is_measured_again(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(finished[0], tmp_path / "here"))
    before = calls()
    Path("pets/config.json").write_text('{"of": "cats"}')
    assert CliRunner().invoke(main, [*arguments("undisturbed.tvq"), "--force"]).exit_code == 0
    of_pets = [call for call in before if call.startswith("pets ")]
    assert calls() == [*before, *of_pets]


@pytest.mark.parametrize(
    ("command", "said", "hint"),
    [
        ("nowhere/to-be-found {model}", "cannot be run: No such file", "sh -c"),
        ("sh -c 'echo one; echo two >&2; exit 3' {model}", "got exit code 3", "ends with: two"),
        ("sh -c 'kill -15 $$' {model}", "an end by signal 15", "nothing to stderr"),
        ("sh -c 'echo accuracy: 0.9; echo why >&2' {model}", "got 'accuracy: 0.9'", "with: why"),
        ("true {model}", "a number and nothing else on stdout, got nothing", "nothing to stderr"),
    ],
)
def test_a_command_that_gives_no_number_is_told_of(
    here: Path, command: str, said: str, hint: str
) -> None:
    models = ["base.safetensors", "cars=cars.safetensors"]
    run = CliRunner().invoke(main, ["tune", *models, "-o", "b.tvq", "--evaluate", command])
    assert run.exit_code == 1
    assert run.stderr.startswith("Error: task 'cars': ")
    assert said in run.stderr
    assert hint in run.stderr.split("hint: ")[1]
    assert not Path("b.tvq").exists()


def test_a_command_is_split_as_words_and_runs_in_no_shell(tmp_path: Path) -> None:
    shapes = {name: ("float32", tuple(tensor.shape)) for name, tensor in BASE.items()}
    model = tvcodec.Model(shapes, BASE.__getitem__, {})
    checks = 'test -f "$0" && test $# = 1 && test "$1" = "cars; exit 9" && echo 0.25'
    command = Command(f"sh -c '{checks}' {{model}} '{{task}}; exit 9'", tmp_path / "b.tvq")
    assert command(model, "cars") == 0.25
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"with \{model\} in it"):
        Command("echo 1", tmp_path / "b.tvq")
    with pytest.raises(ValueError, match="quotation"):
        Command("echo '{model}", tmp_path / "b.tvq")


def test_usage_and_outputs_are_checked_before_anything_is_measured(here: Path) -> None:
    wrong = CliRunner().invoke(main, [*arguments("b.tvq")[:-1], "echo 1"])
    assert wrong.exit_code == 2
    assert "{model}" in wrong.stderr
    assert CliRunner().invoke(main, arguments("b.tvq", "1.5")).exit_code == 2
    Path("b.tvq").write_text("mine")
    run = CliRunner().invoke(main, arguments("b.tvq"))
    assert run.exit_code == 1
    assert "--force" in run.stderr
    assert not Path("calls").exists()
    assert Path("b.tvq").read_text() == "mine"


def test_a_ledger_survives_a_torn_line_and_keeps_keys_apart(tmp_path: Path) -> None:
    path, key = tmp_path / "ledger", {"task": "cars", "settings": "{}"}
    Ledger(path).put("score", key, 0.5)
    with path.open("ab") as file:
        file.write(b'{"task": "cars", "sett')
    Ledger(path).put("score", {**key, "task": "pets"}, None)
    with path.open("ab") as file:
        file.write(b'[1]\n"x"\n\xff\n')
    ledger = Ledger(path)
    assert ledger.get("score", key) == 0.5
    assert ledger.known("score", {**key, "task": "pets"})
    assert ledger.get("score", {**key, "task": "pets"}) is None
    assert not ledger.known("bytes", key)
    assert not ledger.known("score", {**key, "label": "other"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"score": NaN}', "score: expected a finite number or null, got NaN"),
        ('{"score": -Infinity}', "score: expected a finite number or null, got -Infinity"),
        ('{"bytes": null}', "bytes: expected a size above 0, got null"),
        ('{"bytes": 0}', "bytes: expected a size above 0, got 0"),
    ],
)
def test_a_ledger_that_a_hand_spoilt_says_in_which_line(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "ledger"
    path.write_text('{"score": 0.5}\n' + line)
    with pytest.raises(TvqError) as caught:
        Ledger(path)
    assert str(caught.value) == f"{path}: line 2: {message}"
    assert caught.value.hint == "delete that line, and it is measured again"


def test_a_kept_score_that_is_none_says_where_it_is_kept(here: Path) -> None:
    """That of a fine-tune, measured once: as null where it was NaN."""
    words = [*arguments("b.tvq")[:-1], "sh -c 'echo nan' {model}"]
    for _ in range(2):
        run = CliRunner().invoke(main, words)
        assert run.exit_code == 1
        assert "got no finite number" in run.stderr
        assert "b.tvq.tune.jsonl keeps it: delete that if it is wrong" in run.stderr


def test_an_interrupted_run_says_that_it_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Command, model: tvcodec.Model, task: str) -> float:
        if Path("b.tvq.tune.jsonl").exists():
            raise KeyboardInterrupt
        return 0.5

    monkeypatch.setattr(Command, "__call__", interrupted)
    run = CliRunner().invoke(main, arguments("b.tvq"))
    assert run.exit_code == 130
    assert run.stderr.splitlines()[-1] == (
        "Error: interrupted; what was measured stays in b.tvq.tune.jsonl:"
        " the same command goes on from there"
    )
    assert sorted(path.name for path in Path().glob("*b.tvq*")) == ["b.tvq.tune.jsonl"]


def test_a_curve_comes_back_from_its_metadata() -> None:
    assert curve.from_metadata(curve.as_metadata(CURVE)) == CURVE
    wild = Point("mse", 9.0, 0.0, 0.0, 2e4, -1e9, -1e9)
    stored = curve.from_metadata(curve.as_metadata(replace(CURVE, points=(*CURVE.points, wild))))
    assert stored is not None
    assert stored.points[:2] == CURVE.points
    limits = {"bits": curve.MOST_BITS, "share": -curve.MOST_SHARE}
    assert stored.points[2] == replace(wild, **limits)
    long = replace(CURVE, points=CURVE.points * 8)
    assert len(curve.as_metadata(long)[curve.KEY]) < 700


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "7", "null", "{}", "[" * 100_000, '{"points": []}'),
        '{"chosen":0,"points":[],"reference":1,"retain":1,"lower_is_better":false}',
        '{"chosen":5,"points":[["mse",1,0,0,1,1,1]],"reference":1,"retain":1,"lower_is_better":0}',
        '{"chosen":0,"points":[["mse",1,0,0,NaN,1,1]],"reference":1,"retain":1,"lower_is_better":0}',
        '{"chosen":0,"points":[[1,1,0,0,1,1,1]],"reference":1,"retain":1,"lower_is_better":0}',
        '{"chosen":0,"points":[["mse",1,0,0,1,1]],"reference":1,"retain":1,"lower_is_better":0}',
        '{"chosen":0,"points":[["mse",1,0,0,1,1,1]],"reference":1,"retain":9,"lower_is_better":0}',
        '{"chosen":0,"points":["mse"],"reference":1' + 400 * "0" + ',"retain":1}',
    ],
)
def test_metadata_that_is_no_curve_is_passed_over(text: str) -> None:
    assert curve.from_metadata({curve.KEY: text}) is None
