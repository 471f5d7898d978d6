"""tvcodec decode"""

from __future__ import annotations

import click

from tvcodec.cli import completion, options, paths, printing
from tvcodec.cli.progress import progress


@click.command()
@options.bank_argument
@click.argument("task", metavar="TASK", shell_complete=completion.tasks)
@options.base_model(required=False)
@options.model_output
@click.option(
    "--parameters",
    metavar="GLOB",
    help="Only the parameter of that name, or those whose names match: 'encoder.layer.0.*'.",
)
@click.option(
    "--task-vector",
    is_flag=True,
    help="Write fine-tune minus base model instead, in float32; --base-model is needed only where"
    " parameters are stored bit-exact.",
)
@options.max_shard_size
@options.expect_root
@options.jobs
@options.force
def decode(
    bank: str,
    task: str,
    base_model: str | None,
    output: str,
    parameters: str | None,
    task_vector: bool,
    max_shard_size: int | None,
    expect_root: str | None,
    jobs: int | None,
    force: bool,
) -> None:
    """Write one fine-tune as a checkpoint, each parameter in its original dtype.

    Every parameter of the base model is checked before it is used; if it is another one, nothing
    is written. A directory gets the files that the fine-tune's had beside the weights, or the base
    model's if the fine-tune was a single file.

    \b
      tvcodec decode bank.tvq cars --base-model base/ -o cars-restored/
      tvcodec decode bank.tvq cars --task-vector -o cars-tau.safetensors
    """
    if base_model is None and not task_vector:
        raise click.UsageError("--base-model is missing (only --task-vector goes without)")
    paths.check(bank, base_model, output=output)
    from tvcodec.decoding.decoder import Bank

    with Bank(bank, expected_root=expect_root) as opened:
        if task_vector:
            model = opened.task_vector(task, base_model, parameters)
        else:
            assert base_model is not None
            model = opened.decode(task, base_model, parameters)
        values = sum(item.count for item in opened.archive.root.base_model if item.name in model)
        with progress(("decoding", values)) as advance:
            model.save(
                output, max_shard_size=max_shard_size, force=force, jobs=jobs, progress=advance
            )
    if not output.endswith(".safetensors"):
        for line in model.notes:
            printing.note(f"note: {line}")
    printing.note(f"wrote {output}: {printing.counted(len(model), 'parameter')}")
