"""The ``netsim`` program: the list of commands, and what happens to errors and signals."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from netsim.cli.base import NetsimGroup, State, complete_clusters
from netsim.cli.errors import report

_EXAMPLES = """
  netsim up --nodes 3
  netsim apply -f examples/guestbook.yaml
  netsim get pods -o wide
  netsim exec pod/client -- curl -s http://web
  netsim down
"""

_COMPLETE = "_NETSIM_COMPLETE"  # click's name for it: set where a shell asks for completions

# name -> module and attribute; imported when the command is used or listed
_COMMANDS = {
    "up": "clusters.up",
    "down": "clusters.down",
    "list": "clusters.list_clusters",
    "status": "clusters.status",
    "proxy-mode": "proxymode.proxy_mode",
    "check": "check.check",
    "apply": "manifests.apply",
    "delete": "manifests.delete",
    "get": "get.get",
    "describe": "describe.describe",
    "logs": "logs.logs",
    "trace": "trace.trace",
    "explain": "explain.explain",
    "rules": "rules.rules",
    "capture": "capture.capture",
    "exec": "processes.exec_command",
    "shell": "processes.shell",
    "fault": "fault.fault",
    "experiment": "experiment.experiment",
    "diff": "diff.diff",
    "kubeconfig": "clusters.kubeconfig",
    "completion": "completion.completion",
}


@click.command(
    cls=NetsimGroup,
    commands_at=_COMMANDS,
    examples=_EXAMPLES,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--cluster",
    metavar="NAME",
    envvar="NETSIM_CLUSTER",
    shell_complete=complete_clusters,
    help="The cluster; default: the only one running.",
)
@click.version_option(package_name="netsim", message="netsim %(version)s")
@click.pass_context
def cli(context: click.Context, cluster: str | None) -> None:
    """A Kubernetes network on this machine: real namespaces, real rules, real packets.

    WHERE is pod/[NAMESPACE/]NAME, node/NAME or host/NAME (host/external is always there).
    Exit status: 0 done, 1 failed, 2 wrong usage; exec and shell pass on that of the command.
    """
    context.obj = State(cluster)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; errors are told on standard error."""
    if _COMPLETE in os.environ:
        import netsim.cli.completion  # noqa: F401 - how a shell's words are taken is registered there
    try:
        result: Any = cli.main(args=list(arguments), prog_name="netsim", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        return report(error)
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the console script."""
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:  # "netsim get pods | head -1": the reader has what it wanted; a full disk was told of
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


if __name__ == "__main__":
    main()
