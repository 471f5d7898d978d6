"""What bash hands over behind Tab, put together again: it takes words apart at each =."""

from __future__ import annotations

from click.shell_completion import BashComplete, CompletionItem, add_completion_class


@add_completion_class
class Bash(BashComplete):
    """Knows --option=VALUE and A=1,B=2; what it answers stands for what is behind the last =."""

    name = "bash"

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        for word in (*args, incomplete):
            if words and (word.startswith("=") or words[-1].endswith("=")):
                words[-1] += word
            else:
                words.append(word)
        return words[:-1], words[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        value = incomplete.partition("=")[2] if incomplete.startswith("-") else incomplete
        there = value[: value.rfind("=") + 1]
        return [
            CompletionItem(item.value.removeprefix(there), item.type, item.help)
            for item in super().get_completions(args, incomplete)
        ]
