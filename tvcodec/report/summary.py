"""What stands on top of the page: the file in a few words and figures."""

from __future__ import annotations

from tvcodec.report.facts import Facts
from tvcodec.wording import amount, bits, counted, percent, recipe


def summary(facts: Facts) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A sentence or two, and what the file is, as pairs of term and value."""
    said = f"{counted(len(facts.tasks), 'task')} of one base model in {amount(facts.bytes)}"
    if facts.bits:
        said += (
            f": {bits(facts.bits)} bits per parameter and task,"
            f" {16 / facts.bits:,.1f} times smaller than the fine-tunes in 16 bits,"
            f" {32 / facts.bits:,.1f} times smaller than in 32."
        )
    if facts.tasks:
        worst = max(facts.tasks, key=lambda task: task.error)
        said += f" The greatest error of a task is {percent(worst.error)}, of {worst.name}."
    recipes = sorted({recipe(task.recipe) for task in facts.tasks})
    base = f"{facts.parameters:,} parameters, {facts.values:,} values"
    return said, (
        ("file", facts.name),
        ("size", f"{amount(facts.bytes)} ({facts.bytes:,} bytes)"),
        ("base model", base),
        ("base model, SHA-256", facts.base_model),
        ("root digest", facts.root),
        ("recipe", recipes[0] if len(recipes) == 1 else f"{len(recipes)} different ones"),
    )
