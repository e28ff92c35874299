"""``completion``: what a shell needs to complete netsim's commands, kinds, names and places."""

import click
from click.shell_completion import get_completion_class

from netsim.cli.base import NetsimCommand
from netsim.model.errors import NetsimError

_FILES = {
    "bash": 'eval "$(netsim completion bash)"        in ~/.bashrc',
    "zsh": 'eval "$(netsim completion zsh)"         in ~/.zshrc',
    "fish": "netsim completion fish | source         in ~/.config/fish/config.fish",
}


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
