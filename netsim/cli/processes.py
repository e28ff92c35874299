"""``exec`` and ``shell``: processes in a pod, on a node, or on the external host."""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Mapping

import click

from netsim.cli.base import NetsimCommand, State, complete_places, namespace_option, pass_state
from netsim.cli.errors import print_error
from netsim.cli.terminal import Signaller, run_plain, run_with_pty
from netsim.model.errors import KernelError, UsageError
from netsim.model.names import FABRIC
from netsim.model.where import parse_where

# What programs ask about the terminal they print on; all else of the caller's environment stays here.
TERMINAL_VARIABLES = ("TERM", "COLORTERM", "LANG", "LC_ALL", "LC_CTYPE")
# tcpdump changes its groups before it starts, for -Z root too, and a user namespace made by an ordinary user forbids
# setgroups(2) for good (user_namespaces(7)).
_TCPDUMP_HINT = "tcpdump can't change its user in the cluster of an ordinary user, with -Z neither: netsim capture"
COMMAND_NOT_FOUND = 127  # as shells and docker exec have it


class _ExecCommand(NetsimCommand):
    """Options may stand before and after WHERE; all after ``--`` is the command. Without ``--`` it starts at the
    first word after WHERE.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = "--" in args
        return super().parse_args(ctx, args)


@click.command(
    "exec",
    cls=_ExecCommand,
    examples="""
  netsim exec pod/client -- curl -s http://web
  netsim exec node/node-1 -- iptables-save -t nat
  netsim exec host/external -- ping -c 1 172.18.0.2
  echo hello | netsim exec pod/shop/web-0 -c app -- cat
  netsim exec -t pod/client -- top
""",
)
@click.argument("where", shell_complete=complete_places)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@namespace_option
@click.option("-c", "--container", metavar="NAME", help="Which container of a pod; default: its first.")
@click.option("-i", "--stdin", is_flag=True, help="Accepted for kubectl's sake: standard input always goes through.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@pass_state
def exec_command(
    state: State, where: str, command: tuple[str, ...], namespace: str, container: str | None, stdin: bool, tty: bool
) -> int:
    """Run a COMMAND at a place. Standard input, output, error and the exit status go through.

    127 means that there is no such command there, 128+N that signal N ended it.
    """
    place = str(parse_where(where, namespace))
    if tty and not os.isatty(0):
        raise UsageError("--tty needs a terminal on standard input", hint="leave out -t")
    return _run(state, place, list(command), tty=tty, container=container, env={})


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim shell                  # the sandbox: every node and pod is in "ip netns list"
  netsim shell node/node-1
  netsim shell pod/web-0
""",
)
@click.argument("where", required=False, shell_complete=complete_places)
@namespace_option
@click.option("-c", "--container", metavar="NAME", help="Which container of a pod; default: its first.")
@pass_state
def shell(state: State, where: str | None, namespace: str, container: str | None) -> int:
    """Open a shell in a pod, on a node, on the external host, or, without WHERE, in the sandbox.

    It is $SHELL, else bash. Commands may also come from a pipe.
    """
    place = None if where is None else str(parse_where(where, namespace))
    program = os.environ.get("SHELL") or shutil.which("bash") or "/bin/sh"
    label = place or FABRIC
    env = {"NETSIM_WHERE": label}
    if os.path.basename(program) == "bash":
        # Set before each prompt, because the user's .bashrc sets PS1 after the environment did.
        env["PROMPT_COMMAND"] = f"PS1='\\[\\e[1;36m\\]{label}\\[\\e[0m\\]:\\w\\$ '"
    return _run(state, place, [program], tty=os.isatty(0) and os.isatty(1), container=container, env=env)


def _terminal_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in TERMINAL_VARIABLES if name in os.environ}


def _run(
    state: State, place: str | None, argv: list[str], *, tty: bool, container: str | None, env: Mapping[str, str]
) -> int:
    cluster = state.attach()
    env = {**_terminal_environment(), **env} if tty else env

    def run(stdin: int, stdout: int, stderr: int, started: Callable[[Signaller], None]) -> int:
        return cluster.exec_stream(
            place,
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            tty=tty,
            env=env,
            container=container,
            started=started,
        )

    sys.stdout.flush()
    try:
        status = run_with_pty(run) if tty else run_plain(run)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        print_error(f"{place or FABRIC}: {error.message}", error.hint or _not_found_hint(argv[0]))
        return COMMAND_NOT_FOUND
    if status == 1 and os.path.basename(argv[0]) == "tcpdump" and os.geteuid() != 0:
        click.echo(f"{click.style('next:', bold=True)} {_TCPDUMP_HINT} {place or FABRIC}", err=True)
    return status


def _not_found_hint(command: str) -> str:
    if command.startswith("-"):
        return "options go before WHERE or before --"
    return f"places have the machine's own programs: install {command} on it"
