"""What a shell offers behind Tab: files, and the tasks of the .tvq files that were named before.

What goes wrong meanwhile is no business of somebody who is still typing: then nothing is offered.
"""

from __future__ import annotations

import os
from contextlib import closing

import click
from click.shell_completion import CompletionItem

from tvcodec.errors import TvqError
from tvcodec.file.archive import Archive


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Whatever the shell itself finds on the disk."""
    return [CompletionItem(incomplete, type="file")]


def tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Tasks that were not named yet."""
    given = ctx.params.get(param.name or "")
    named = {given} if isinstance(given, str) else {*(given or ())}
    return [
        CompletionItem(task)
        for task in _known(ctx)
        if task.startswith(incomplete) and task not in named
    ]


def listed_tasks(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """One more task behind those before the last comma."""
    before, comma, last = incomplete.rpartition(",")
    named = before.split(",")
    return [
        CompletionItem(before + comma + task)
        for task in _known(ctx)
        if task.startswith(last) and task not in named
    ]


def weights(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A task and =, behind those that have a number; a file where it may be the name of one."""
    before, comma, last = incomplete.rpartition(",")
    named = {pair.partition("=")[0] for pair in before.split(",")}
    found = [
        CompletionItem(f"{before}{comma}{task}=")
        for task in _known(ctx)
        if (last or comma) and task.startswith(last) and task not in named
    ]
    return found or files(ctx, param, incomplete)


def _known(ctx: click.Context) -> list[str]:
    bank, banks = ctx.params.get("bank"), ctx.params.get("banks")
    paths = [bank] if bank else banks or ctx.args  # unread behind an unfinished option
    known: dict[str, None] = {}
    for path in paths:
        try:
            with closing(Archive(os.path.expanduser(path))) as archive:
                known.update(dict.fromkeys(archive.tasks))
        except (TvqError, OSError):
            continue
    return list(known)
