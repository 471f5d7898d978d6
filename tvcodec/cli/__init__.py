"""The command line: text in, library call, text out.

stdout carries data only; progress, notes and errors go to stderr. Exit 0 done, 1 failed, 2 wrong
usage, 3 saved in part, 130 interrupted. What needs torch is imported by the commands that do, when
they run.
"""

from __future__ import annotations

import importlib
import io
import keyword
import os
import sys
from typing import Any

import click

from tvcodec import __version__
from tvcodec.cli.printing import printable
from tvcodec.errors import TvqError
from tvcodec.wording import meant

INTERRUPTED = 130
COMPLETE = "_TVCODEC_COMPLETE"  # set by a shell that asks what to complete
COMMANDS = {  # in the order in which people need them; each is in the module of its name
    "encode": "Write fine-tunes into one .tvq file.",
    "tune": "Search the smallest file that keeps a score.",
    "add": "Add fine-tunes to a .tvq file.",
    "remove": "Remove tasks from a .tvq file.",
    "decode": "Give fine-tunes back.",
    "merge": "Write a merge of fine-tunes.",
    "export": "Write a task or the file in another form.",
    "import": "Read back what export wrote as .safetensors.",
    "info": "Show what a .tvq file holds.",
    "report": "Draw what a .tvq file holds as a page.",
    "verify": "Check a .tvq file, or measure its errors again.",
    "salvage": "Save what is intact of a damaged .tvq file.",
    "copy": "Copy a .tvq file between disks and URLs.",
}


class Commands(click.Group):
    """Imports a command when it is asked for, and turns what the library raises into a line or two
    and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        module = importlib.import_module(f"tvcodec.cli.{name}")
        command: click.Command = getattr(module, name)
        command.short_help = COMMANDS[cmd_name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            hint = meant(args[0], COMMANDS)
            if hint:
                raise click.UsageError(f"No such command {args[0]!a}; {hint.strip()}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if COMPLETE in os.environ:
                importlib.import_module("tvcodec.cli.bash")  # which makes itself known
            return super().main(*args, **kwargs)
        except KeyboardInterrupt:  # while a shell asks what to complete: nobody is to be told
            sys.exit(INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a name must not stop a report
        try:
            return super().invoke(ctx)
        except TvqError as error:
            _complain(str(error), error.hint)
        except BrokenPipeError:  # the reader of stdout has seen enough: click leaves quietly
            raise
        except OSError as error:
            _complain(_one_line(error))
        except KeyboardInterrupt as error:
            _complain(str(error) or "interrupted, nothing was written")
            ctx.exit(INTERRUPTED)
        return ctx.exit(1)


def _complain(message: str, hint: str | None = None) -> None:
    click.echo(f"Error: {printable(message)}", err=True)
    if hint:
        click.echo(f"hint: {printable(hint)}", err=True)


def _one_line(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    reason = reason[:1].lower() + reason[1:]
    return reason if error.filename is None else f"{error.filename}: {reason}"


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
)
@click.version_option(__version__, message="tvcodec %(version)s")
def main() -> None:
    """Many fine-tunes of one base model in one small file.

    A .tvq file holds the task vectors (fine-tune minus base model) of any number of fine-tunes.
    With the base model it gives back any of them, or a merge of several. It may be read from a URL:
    https://, s3:// or whatever else fsspec opens.

    \b
      tvcodec encode base/ cars=cars/ dtd=dtd.safetensors -o bank.tvq
      tvcodec add bank.tvq base/ pets=pets/
      tvcodec info bank.tvq
      tvcodec decode bank.tvq cars --base-model base/ -o cars-restored/
      tvcodec merge bank.tvq --base-model base/ -o merged/
      tvcodec verify bank.tvq
    """
