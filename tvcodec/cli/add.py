"""tvcodec add"""

from __future__ import annotations

from typing import Any

import click

from tvcodec.cli import completion, options, paths, printing
from tvcodec.cli.encode import chosen_recipe, encode, models, phases, print_summary
from tvcodec.cli.progress import progress
from tvcodec.cli.recipe_settings import RecipeFile


@click.command(epilog=encode.epilog)
@options.bank_argument
@click.argument("base_model", metavar="BASE_MODEL", required=False, shell_complete=completion.files)
@click.argument(
    "fine_tunes",
    type=options.NamedCheckpoint(),
    metavar="NAME=FINE_TUNE...",
    nargs=-1,
)
@options.edited_output
@click.option("--replace", is_flag=True, help="Replace tasks of the same names.")
@options.expect_root
@click.option("--force", is_flag=True, help="Overwrite the output.")
def add(
    bank: str,
    base_model: str | None,
    fine_tunes: tuple[tuple[str, str], ...],
    output: str | None,
    replace: bool,
    expect_root: str | None,
    force: bool,
    jobs: int | None,
    weights_only: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Encode fine-tunes and put them into a .tvq file; its tasks are copied as they are.

    BASE_MODEL is the one that the file was encoded against; it is checked by content. The file is
    replaced in one step, so whoever reads it is not disturbed, and several processes may add to it
    at a time. Where tasks share no basis, the result is what `encode` would have written of all.
    A recipe that codes tasks by what all of them are (svd-hybrid, rtvq, tall, consensus, tsv-c) is
    refused.

    \b
      tvcodec add bank.tvq base/ pets=pets/
      tvcodec add bank.tvq base/ cars=better-cars/ --replace --quality high
    """
    base_model, tunes = models(base_model, fine_tunes, RecipeFile())
    paths.check(bank, base_model, *tunes.values(), output=output)
    recipe, goal, said = chosen_recipe(settings)
    if said.places:
        printing.note(f"note: {', '.join(said.places)}: for tvcodec encode, not used here")
    from tvcodec import adding
    from tvcodec.checkpoint import open_checkpoint

    base = open_checkpoint(base_model)
    with progress(*phases(base, len(tunes), goal)) as advance:
        summary = adding.add(
            bank,
            base,
            tunes,
            output=output,
            recipe=recipe,
            goal=goal,
            jobs=jobs,
            weights_only=weights_only,
            replace=replace,
            force=force,
            expected_root=expect_root,
            progress=advance,
        )
    print_summary(summary, as_json, "new task")


_OWN = {"masks", "cluster", *(parameter.name for parameter in add.params)}
add.params += [parameter for parameter in encode.params if parameter.name not in _OWN]
