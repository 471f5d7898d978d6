"""What people may write on the command line, and options that several commands share."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from tvcodec.cli import completion
from tvcodec.errors import TvqError
from tvcodec.file.index import valid_task_name
from tvcodec.maths.merge import weights

Command = TypeVar("Command", bound=Callable[..., Any])

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(i?))?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class _ParamType(click.ParamType):  # type: ignore[type-arg]  # generic in recent versions only
    """A kind of value that people write."""


class Number(_ParamType):
    """A finite number in a range; its lower end may be excluded."""

    name = "number"

    def __init__(self, above: float = -math.inf, least: float = -math.inf, most: float = math.inf):
        self.above, self.least, self.most = above, least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"expected a number, got {value!r}", param, ctx)
        fits = self.above < number < math.inf and self.least <= number <= self.most
        if not fits:
            self.fail(f"expected {self._range()}, got {value}", param, ctx)
        return number

    def _range(self) -> str:
        if self.most < math.inf:
            return f"a number in {self.least:g}..{self.most:g}"
        if self.above > -math.inf:
            return f"a number above {self.above:g}"
        return "a finite number"


class Scaling(_ParamType):
    """A finite number, or one for each task: cars=0.5,dtd=1.2."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "=" not in value:
            return Number().convert(value, param, ctx)
        try:
            return weights.pairs(value, "scaling")
        except TvqError as error:
            self.fail(str(error), param, ctx)


class Bytes(_ParamType):
    """A number of bytes: 123456, 500KB, 1.5MB, 2GiB."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        value = str(value)
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"expected bytes such as 500KB or 1.5MB, got {value!r}", param, ctx)
        number, prefix, binary = match.groups()
        if len(number) > 20:
            self.fail(f"expected 1 byte to 8 EiB, got {value[:40]!r}", param, ctx)
        size = int(float(number) * (1024 if binary else 1000) ** _POWERS[(prefix or "").lower()])
        if not 1 <= size < 2**63:
            self.fail(f"expected 1 byte to 8 EiB, got {value[:40]!r}", param, ctx)
        return size


class Digest(_ParamType):
    """A SHA-256, hexadecimal."""

    name = "digest"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if _DIGEST.fullmatch(value) is None:
            self.fail(f"expected 64 hexadecimal digits, got {value[:80]!a}", param, ctx)
        return value


class NamedCheckpoint(_ParamType):
    """NAME=FINE_TUNE: (name of the task, path of its checkpoint)."""

    name = "NAME=FINE_TUNE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        name, equals, path = value.partition("=")
        if not equals or not path:
            self.fail(f"expected NAME=FINE_TUNE, got {value!a}", param, ctx)
        if not valid_task_name(name):
            self.fail(
                f"task {name!a}: expected a name of letters, digits and . _ -, which no system"
                " reserves for a device",
                param,
                ctx,
            )
        return name, path

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return completion.files(ctx, param, incomplete)

    @staticmethod
    def is_one(text: str) -> bool:
        """Whether `text` looks like one, rather than like a path that has a = in it."""
        name, equals, path = text.partition("=")
        return bool(equals and path) and valid_task_name(name) and not os.path.exists(text)


def by_task(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Path by task; a usage error where two tasks have one name, but for upper and lower case."""
    paths: dict[str, str] = {}
    folded: dict[str, str] = {}
    for name, path in pairs:
        other = folded.setdefault(name.casefold(), name)
        if name in paths:
            raise click.UsageError(f"task {name!r} is given twice")
        if other != name:
            raise click.UsageError(f"tasks {other!r} and {name!r} differ in upper and lower case")
        paths[name] = path
    return paths


PUBLISHED = ("svd-hybrid", "tvq", "rtvq", "tall", "consensus", "tsv-c", "bitdelta")


def recipe(command: Command) -> Command:
    """The option --recipe."""
    return click.option(
        "--recipe",
        metavar="NAME",
        shell_complete=_recipes,
        help=f"auto [default], exact, or a published system: {', '.join(PUBLISHED)}. Their settings"
        " go into --set; an unknown one brings up the list.",
    )(command)


def _recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in ("auto", "exact", *PUBLISHED) if name.startswith(incomplete)]


def svd_hybrid(command: Command) -> Command:
    """Settings of the recipe svd-hybrid, and of others that have the same."""
    for option in reversed(_SVD_HYBRID):
        command = option(command)
    return command


_SVD_HYBRID = (
    click.option(
        "--energy-threshold",
        type=Number(least=0, most=1),
        help="svd-hybrid: share of the energy that the basis holds. [default: 0.9]",
    ),
    click.option(
        "--max-rank",
        type=click.IntRange(min=1),
        help="svd-hybrid: vectors of the basis, at most. [default: 128]",
    ),
    click.option(
        "--center/--no-center",
        default=None,
        help="svd-hybrid: store the mean of the tasks apart. [default: center]",
    ),
    click.option(
        "--fp16/--no-fp16",
        default=None,
        help="Published systems: floats in 16 bits. [default: fp16 for svd-hybrid]",
    ),
    click.option(
        "--low-bits",
        type=click.IntRange(1, 8),
        help="svd-hybrid: bits of each stage of the residual. [default: 4]",
    ),
    click.option(
        "--stages",
        type=click.IntRange(0, 15),
        help="svd-hybrid: stages of the residual. [default: 2]",
    ),
    click.option(
        "--mask-strategy",
        type=click.Choice(["union", "intersection", "majority"]),
        help="svd-hybrid: how many tasks a value has to matter to. [default: union]",
    ),
    click.option(
        "--include-noise/--no-include-noise",
        default=None,
        help="svd-hybrid: keep, shrunk, what the masks leave out.",
    ),
    click.option(
        "--noise-shrink",
        type=Number(least=0, most=1),
        help="svd-hybrid: factor of that. [default: 0.5]",
    ),
    click.option(
        "--basis",
        type=click.Choice(["fp16", "coded"]),
        help="svd-hybrid: vectors of the basis as floats, or by the auto codec, in a fraction of"
        " the room. [default: fp16]",
    ),
)

bank_argument = click.argument("bank", metavar="BANK.tvq", shell_complete=completion.files)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
force = click.option("--force", is_flag=True, help="Overwrite what is there.")
expect_root = click.option(
    "--expect-root",
    type=Digest(),
    metavar="HEX",
    help="Fail unless this is the file's root digest; then all that is read is checked by SHA-256.",
)
jobs = click.option("--jobs", type=click.IntRange(min=1), help="Threads [default: one per core].")
new_bank = click.option(
    "-o",
    "--output",
    required=True,
    metavar="BANK.tvq",
    shell_complete=completion.files,
    help="The file to write.",
)
edited_output = click.option(
    "-o",
    "--output",
    metavar="NEW.tvq",
    shell_complete=completion.files,
    help="Write this file instead of replacing BANK.tvq.",
)
model_output = click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    shell_complete=completion.files,
    help="A .safetensors file, or else a directory that gets config and tokenizer files too.",
)
max_shard_size = click.option(
    "--max-shard-size",
    type=Bytes(),
    help="Of the weights in a directory; above it, they are split. [default: as those of the"
    " fine-tune if it was encoded with --exact, or else 5GB]",
)


def base_model(required: bool) -> Callable[[Command], Command]:
    """The option --base-model."""
    return click.option(
        "--base-model",
        metavar="BASE_MODEL",
        required=required,
        shell_complete=completion.files,
        help="The checkpoint that the file was encoded against; checked by content.",
    )
