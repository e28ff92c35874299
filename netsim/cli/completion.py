"""``completion``: what a shell needs to complete netsim's commands, kinds, names, places and Services."""

import os
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from netsim.cli.base import NetsimCommand
from netsim.model.errors import NetsimError

_FILES = {
    "bash": 'eval "$(netsim completion bash)"        in ~/.bashrc',
    "zsh": 'eval "$(netsim completion zsh)"         in ~/.zshrc',
    "fish": "netsim completion fish | source         in ~/.config/fish/config.fish",
}
_BREAKS = frozenset(":=")  # of bash's COMP_WORDBREAKS those that netsim's words hold


@add_completion_class
class WholeWords(BashComplete):
    """Bash takes ``svc/web:http`` for three words and replaces the last; here it is one, and its end is answered."""

    _before = ""  # of the word being typed, what bash keeps

    def get_completion_args(self) -> tuple[list[str], str]:
        parts = split_arg_string(os.environ["COMP_WORDS"])[: int(os.environ["COMP_CWORD"]) + 1]
        if len(parts) <= int(os.environ["COMP_CWORD"]):
            parts.append("")  # the cursor stands after a blank
        words = [""]
        for part in parts:
            if words[-1] and (_BREAKS.issuperset(part) or words[-1][-1] in _BREAKS) and part:
                words[-1] += part
            else:
                words.append(part)
        kept = 0 if _BREAKS.issuperset(parts[-1]) else len(parts[-1])
        self._before = words[-1][: len(words[-1]) - kept]
        return words[2:-1], words[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{item.value.removeprefix(self._before)}"


@click.command(
    cls=NetsimCommand,
    cluster_option=False,
    examples="\n".join(_FILES.values()),
)
@click.argument("shell", type=click.Choice(tuple(_FILES)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL."""
    kind = get_completion_class(shell)
    if kind is None:
        raise NetsimError(f"this click has no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "netsim", "_NETSIM_COMPLETE").source())
