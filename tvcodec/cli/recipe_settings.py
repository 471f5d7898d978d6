"""Recipes from the command line and from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvcodec.cli import options
from tvcodec.cli.loading import load_torch
from tvcodec.errors import TvqError

if TYPE_CHECKING:
    from tvcodec.encoding.published import Published
    from tvcodec.parameter.rate import Goal
    from tvcodec.parameter.recipes import Recipe

NAMES = ("auto", "exact", *options.PUBLISHED)
QUALITIES = {  # what each costs and keeps, as measured
    "small": "~0.04 bit",
    "balanced": "~0.10 bit",
    "high": "~1.0 bit",
}
RATES = ("step", "bits", "size", "max_error", "quality")
AUTO: dict[str, Any] = {
    "step": options.Number(least=0.001, most=1000),
    "bits": options.Number(above=0),
    "size": options.Bytes(),
    "max_error": options.Number(above=0),
    "quality": click.Choice(list(QUALITIES)),
    "metric": click.Choice(["mse", "function"]),
    "gain": options.Number(least=0, most=1),
    "share": click.BOOL,
}

PREFIX = "svd_"  # of settings in files for SVD-Hybrid
RENAMED = {"rtvq_stages": "stages"}
PLACES = ("base_model_path", "checkpoint_dir", "mask_dir", "tasks")
OF_MERGES = (  # settings of such files that count when tasks are merged, and not before
    "weighting",
    "cluster_k",
    "performance_file",
    "performance_temperature",
    "store_artifacts",
    "eval_reconstruction",
    "output_dir",
)
MODELS = (".safetensors", ".pt", ".bin", "")  # how what belongs to a task may be called


@dataclass(slots=True)
class RecipeFile:
    """What a file says: the recipe's name and settings, places of models, and what does not
    concern encoding."""

    recipe: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def read(path: str | None, overrides: Sequence[str]) -> RecipeFile:
    """A YAML file with KEY=VALUE `overrides`, flat or with more under `method`; SVD-Hybrid's own
    names of settings are known. TvqError where it is none."""
    flat = {key.removeprefix("method."): value for key, value in map(_pair, overrides)}
    last = _sorted(flat)
    if path is None:
        return last
    found = _sorted(_loaded(path, overrides))
    found.recipe = last.recipe or found.recipe
    found.settings |= last.settings  # whether they are under `method` there or not
    return found


def _sorted(values: dict[str, Any]) -> RecipeFile:
    """Keys and values by what they are about."""
    found = RecipeFile()
    method = values.pop("method", None)
    if isinstance(method, Mapping):
        values = {**values, **method}
        method = values.pop("name", None)
    found.recipe = values.pop("recipe", method)
    if not isinstance(found.recipe, str | None):
        raise click.UsageError(f"recipe: expected a name, got {found.recipe!r:.40}")
    for key, value in values.items():
        plain = str(key).removeprefix(PREFIX)
        if key in PLACES:
            found.places[str(key)] = _place(str(key), value)
        elif plain in OF_MERGES:
            found.ignored.append(str(key))
        else:
            found.settings[RENAMED.get(plain, plain)] = value
    return found


def _place(key: str, value: object) -> str | list[str]:
    """A path; or names of tasks, as a list or with commas between them."""
    if key == "tasks" and isinstance(value, str):
        return [task.strip() for task in value.split(",")]
    if key == "tasks" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    if key == "tasks" or not isinstance(value, str):
        kind = "names" if key == "tasks" else "a path"
        raise click.UsageError(f"{key}: expected {kind}, got {value!r:.40}")
    return value


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"--set: expected KEY=VALUE, got {text!a}")
    return key, value


def _loaded(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError
    except ImportError:
        raise TvqError(
            f"{path}: expected omegaconf to read it with, found none",
            hint="pip install 'tvcodec[config]'",
        ) from None
    try:
        loaded: Any = OmegaConf.load(path)
        if OmegaConf.is_dict(loaded):
            loaded = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
        values: Any = OmegaConf.to_container(loaded, resolve=True)
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        first = " ".join(str(error).split())
        hint = "a key comes once: `method` is a name, or settings among which is `name`"
        raise TvqError(f"{path}: expected YAML, got {first:.200}", hint=hint) from None
    if not isinstance(values, dict):
        raise TvqError(
            f"{path}: expected keys and values, got a {type(values).__name__}",
            hint="write `recipe: NAME`, and its settings below as `key: value`",
        )
    return {str(key): value for key, value in values.items()}


def make(name: str | None, settings: Mapping[str, Any]) -> tuple[Recipe | Published, Goal | None]:
    """The recipe of that name, or the one that `settings` ask for; a usage error where they do not
    go together."""
    given = {key: value for key, value in settings.items() if value is not None}
    name = (name or "auto").replace("_", "-")
    if name not in NAMES:
        raise click.UsageError(f"no recipe {name!a}; there are {', '.join(NAMES)}")
    if name not in options.PUBLISHED:
        _check_auto(name, given)
        return _auto(name, {key: _read(key, value) for key, value in given.items()})
    load_torch()
    from tvcodec.encoding.published import published

    try:
        return published(name, given), None
    except TvqError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise click.UsageError(f"{error}{hint}") from None


def _read(key: str, value: object) -> Any:
    """A setting of the auto codec, which may be text."""
    if isinstance(value, bool) and key != "share":
        raise click.UsageError(f"{key}: expected no truth value, got {value}")
    try:
        return AUTO[key].convert(value if isinstance(value, bool) else str(value), None, None)
    except click.BadParameter as error:
        raise click.UsageError(f"{key}: {error.message}") from None


def _check_auto(name: str, given: Mapping[str, Any]) -> None:
    """Usage errors for settings that exclude each other or do nothing."""
    known = AUTO if name == "auto" else {}
    for key in given:
        if key not in known:
            raise click.UsageError(f"recipe {name!r} has no setting {key!r}")
    rates = [f"--{key.replace('_', '-')}" for key in RATES if key in given]
    if len(rates) > 1:
        raise click.UsageError(f"{' and '.join(rates)} exclude each other: give one")
    stepped = bool(rates) and rates[0] in ("--step", "--bits", "--size")
    for key in ("metric", "gain"):
        if key in given and not stepped:
            raise click.UsageError(f"--{key} goes with --step, --bits or --size")
    if "gain" in given and given.get("metric") == "function":
        raise click.UsageError("--gain goes with --metric mse")


def _auto(name: str, given: Mapping[str, Any]) -> tuple[Recipe, Goal | None]:
    load_torch()
    from tvcodec.parameter.rate import Goal
    from tvcodec.parameter.recipes import EXACT, QUALITIES, Recipe

    if name == "exact":
        return EXACT, None
    recipe = Recipe(metric=given.get("metric", "mse"), gain=given.get("gain", 0.0))
    goals = {key: given[key] for key in ("bits", "size", "max_error") if key in given}
    if "step" in given:
        recipe = recipe.at_step(given["step"])
    elif not goals:
        recipe = QUALITIES[given.get("quality", "balanced")]
    return replace(recipe, share=given.get("share", True)), Goal(**goals) if goals else None


def of_task(directory: str, task: str) -> str:
    """The checkpoint that belongs to a task, in a directory of them."""
    paths = [Path(directory) / f"{task}{suffix}" for suffix in MODELS]
    return str(next((path for path in paths if path.exists()), paths[0]))
