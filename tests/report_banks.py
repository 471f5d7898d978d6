"""Files to report on: one whose names and metadata want to be markup, and one of many tasks."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from small_models import normal

import tvcodec
from tvcodec.file import similarity

HOSTILE = (
    "</title></style><script>document.title='gone'</script>",
    "<img src=x onerror=\"document.title='gone'\">.weight",
    "layer.3.$\\frac{1}{0}$ ${title} -->]]>.weight",
    "layer.12.'\" onfocus=\"document.title='gone'\" &lt;b&amp;.weight",
    "layer.4.fill: #010101; 名前 \U0001f600.weight",
    "a" * 500 + ".weight",
)
RECIPE = "<script>\x00\n</script>\u202e"
TUNING = {
    "chosen": 1,
    "lower_is_better": False,
    "points": [
        ["mse", 4.0, 1.0, 0.0, 0.2, 0.7, 0.875],
        ["mse", 3.0, 1.0, 0.0, 0.5, 0.796, 0.995],
        ["mse", 2.0, 1.0, 0.0, 0.9, 0.8, 1.0],
    ],
    "reference": 0.8,
    "retain": 0.99,
}
POINT = '["mse", 1, 0, 0, 0.5, 0.9, 0.9]'
MALFORMED = [
    "",
    "[" * 100_000,
    "[]",
    "null",
    '{"retain": 1}',
    *(
        f'{{"chosen": {chosen}, "lower_is_better": false, "points": {points}, "reference": {said},'
        ' "retain": 0.9}'
        for chosen, points, said in (
            ("0", "[]", "1"),
            ("1", f"[{POINT}]", "1"),
            ("0", f"[{POINT}]", "NaN"),
            ("0", f"[{POINT}]", "1e999"),
            ("0", '[1, null, [], {}, "x"]', "1"),
            ("0", f"[{', '.join([POINT] * 201)}]", "1"),
            ("0", f"[{POINT.replace('0.5', 'true')}]", "1"),
            ("0", f"[{POINT.replace('0.5', '-1')}]", "1"),
            ("0", f"[{POINT.replace('0.5', '1e300')}]", "1"),
            ("0", f"[{POINT.replace('0.9]', '1e300]')}]", "1"),
            ("0", f"[{POINT.replace('0.5', '1' + '0' * 400)}]", "1"),
        )
    ),
]


def hostile_bank(path: Path) -> Path:
    """Three tasks of parameters named by whoever wishes ill; the first is tuned, the second says
    nonsense of it, and all three have markup for a recipe."""
    base = {name: normal(at, 24, 16) for at, name in enumerate(HOSTILE)}
    wide = [*HOSTILE[:2], "layer.0.weight"]
    base.update({name: normal(50 + at, 128, 96) for at, name in enumerate(wide)})
    tunes = {}
    for at, task in enumerate(("ant", "bee", "cat")):
        low = torch.outer(normal(60 + at, 128), normal(70 + at, 96, scale=0.1))
        tunes[task] = {
            name: value + 0.01 * normal(100 * at + n, *value.shape)
            for n, (name, value) in enumerate(base.items())
        }
        for name in wide:
            tunes[task][name] += low
    texts = [json.dumps(TUNING), MALFORMED[5], "\x00\x1b[31m<b>\u202e"]
    turns = itertools.cycle(texts)
    with pytest.MonkeyPatch.context() as patch:
        known = similarity.as_metadata
        patch.setattr(
            similarity,
            "as_metadata",
            lambda sketch: known(sketch) | {"recipe": RECIPE, "tuning": next(turns)},
        )
        tvcodec.encode(base, tunes, path, recipe=tvcodec.QUALITIES["high"])
    return path


def many_tasks(path: Path, tasks: int = 44) -> Path:
    """Tasks in two families, over twelve layers."""
    base = {f"blocks.{at}.weight": normal(at, 12, 12) for at in range(12)}
    families = [{name: normal(500 + f, 12, 12, scale=0.02) for name in base} for f in range(2)]
    tunes = {
        f"task-{at:03}": {
            name: value + families[at % 2][name] + normal(at + 1, 12, 12, scale=0.01)
            for name, value in base.items()
        }
        for at in range(tasks)
    }
    tvcodec.encode(base, tunes, path, recipe=tvcodec.Recipe(step=2.0))
    return path
