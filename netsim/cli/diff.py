"""``diff``: two clusters, or one before and after, by the ways of packets and by rules."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netsim.cli.base import NetsimCommand, State, complete_clusters, complete_services, output_option, pass_state
from netsim.cli.files import check_writable, write_file
from netsim.cli.output import print_json, progress
from netsim.model.errors import UsageError

if TYPE_CHECKING:
    from netsim.experiment.snapshot import Snapshot

_DIFFERENT = 1


def _complete_services(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Those of the first side that is a running cluster."""
    running = complete_clusters(context, parameter, "")
    named = next((side for side in context.params.get("sides") or () if side in running), None)
    if named is not None:
        context.obj = State(named)
    return complete_services(context, parameter, incomplete)


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim diff lab-iptables lab-nftables
  netsim diff --save before.json lab
  netsim diff before.json lab
  netsim diff before.json after.json -o json
""",
)
@click.argument("sides", nargs=-1, metavar="[A B]", shell_complete=complete_clusters)
@click.option("--save", "file", metavar="FILE", help="Write a snapshot of one cluster, to be compared later.")
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="SERVICE",
    shell_complete=_complete_services,
    help="Only this; may be repeated.",
)
@output_option("text", "json")
@pass_state
def diff(state: State, sides: Sequence[str], file: str | None, services: Sequence[str], output: str | None) -> int:
    """Compare two clusters, or one before and after, by paths and rules.

    A and B are names of running clusters, or files that --save has written. Paths are predicted, from a pod of each
    node to each Service and each other node, and from outside to each NodePort; addresses that differ by allocation
    only are called by their objects. Exit status: 0 the same, 1 different (or it failed), 2 wrong usage.
    """
    from netsim.experiment.compare import compare, render_comparison, render_comparison_text
    from netsim.model.target import parse_service

    only = [parse_service(one).bare for one in services]
    if file is not None:
        _save(state, sides, file, only, output)
        return 0
    if len(sides) != 2:
        hint = "netsim diff A B; a cluster before and after: netsim diff --save FILE, then netsim diff FILE NAME"
        raise UsageError("which two?", hint=hint)
    with progress("") as told:
        found = compare(*(_load(state, side, only, told) for side in sides))
    if output == "json":
        print_json(render_comparison(found))
    else:
        click.echo(render_comparison_text(found), nl=False)
    return 0 if found.equal else _DIFFERENT


def _save(state: State, sides: Sequence[str], file: str, only: Sequence[str], output: str | None) -> None:
    from netsim.experiment.snapshot import render_snapshot, take_snapshot

    if len(sides) > 1:
        raise UsageError("--save takes one cluster", hint="netsim diff --save FILE [NAME]")
    check_writable(file)
    snapshot = take_snapshot(state.attach(sides[0] if sides else None), only)
    write_file(file, json.dumps(render_snapshot(snapshot), indent=1) + "\n")
    if output == "json":
        print_json(render_snapshot(snapshot))
    else:
        click.echo(f"{snapshot.cluster}: {len(snapshot.ways)} paths and the rules of {len(snapshot.rules)} in {file}")


def _load(state: State, side: str, only: Sequence[str], told: Callable[[str], None]) -> "Snapshot":
    """A file if there is one, else a running cluster. Raises NetsimError."""
    from netsim.experiment.snapshot import read_snapshot, take_snapshot

    told(f"reading {side}")
    path = Path(side)
    if path.is_file() or "/" in side or side.endswith(".json"):
        if only:
            raise UsageError("--service: a snapshot has those that it was taken of", hint="say it with --save")
        return read_snapshot(path)
    return take_snapshot(state.attach(side), only)
