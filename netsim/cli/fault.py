"""Faults made on purpose: links down and slow, packets lost, nodes apart, pods killed, nodes stopped; and undone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from netsim.cli.base import (
    Function,
    NetsimCommand,
    NetsimGroup,
    State,
    complete_from,
    complete_places,
    output_option,
    pass_state,
)
from netsim.cli.output import print_json, print_table

if TYPE_CHECKING:
    from netsim.cluster.fault_client import ActiveFault

_COMMANDS = {
    "link-down": "fault.link_down",
    "link-up": "fault.link_up",
    "rate": "fault.rate",
    "loss": "fault.loss",
    "delay": "fault.delay",
    "duplicate": "fault.duplicate",
    "corrupt": "fault.corrupt",
    "reorder": "fault.reorder",
    "mtu": "fault.mtu",
    "partition": "fault.partition",
    "kill": "fault.kill",
    "stop": "fault.stop",
    "start": "fault.start",
    "list": "fault.list_command",
    "undo": "fault.undo",
}


@click.command(
    cls=NetsimGroup,
    commands_at=_COMMANDS,
    examples="""
  netsim fault link-down node/node-2 --for 10s
  netsim fault rate pod/web --rate 10mbit
  netsim fault loss node/node-2 --percent 5 --direction in
  netsim fault partition node/node-1,node/node-2 node/node-3
  netsim fault stop node/node-2
  netsim fault list
  netsim fault undo --all
""",
)
def fault() -> None:
    """Break something on purpose, see what is broken, and undo it.

    PLACE is pod/[NAMESPACE/]NAME, node/NAME or host/external. A fault stays until it is undone, until its time (--for)
    is up, or until the cluster ends.
    """


def _places(function: Function) -> Function:
    return click.argument("places", nargs=-1, required=True, metavar="PLACE...", shell_complete=complete_places)(
        function
    )


def _for(function: Function) -> Function:
    return click.option("--for", "for_", metavar="TIME", help="Undo it after this time, such as 500ms, 10s or 2m.")(
        function
    )


def _direction(function: Function) -> Function:
    return click.option(
        "--direction",
        type=click.Choice(["in", "out", "both"]),
        default="both",
        show_default=True,
        help="What the place receives, what it sends, or both.",
    )(function)


_output = output_option("json")


def _make(state: State, output: str | None, kind: str, places: Sequence[Any], **values: Any) -> None:
    """Make a fault, and say so."""
    made: ActiveFault = state.attach().fault(kind, *places, **values)
    details = made.details
    if output == "json":
        print_json(details)
        return
    what = f" {details['what']}" if details.get("what") else ""
    where = "" if kind == "partition" else f" at {', '.join(details['places'])}"
    left = f", for {values['for_']}" if values.get("for_") else ""
    means = ", by nft since this kernel has no netem" if kind == "loss" and details["by"] == "nft" else ""
    click.echo(f"fault {made.id}: {kind}{what}{where}{left}{means}")


def _tell_undone(undone: Sequence[dict[str, Any]], output: str | None) -> None:
    if output == "json":
        print_json({"undone": list(undone)})
        return
    for one in undone:
        click.echo(f"fault {one['id']}: {one['kind']} at {', '.join(one['places'])} undone")
    if not undone:
        click.echo("there are no faults")


@click.command("link-down", cls=NetsimCommand, examples="netsim fault link-down node/node-2 --for 10s")
@_places
@_for
@_output
@pass_state
def link_down(state: State, places: Sequence[str], for_: str | None, output: str | None) -> None:
    """Pull the cable of a pod, a node or the external host: its eth0 has no carrier."""
    _make(state, output, "link-down", places, for_=for_)


@click.command("link-up", cls=NetsimCommand, examples="netsim fault link-up node/node-2")
@_places
@_output
@pass_state
def link_up(state: State, places: Sequence[str], output: str | None) -> None:
    """Plug it in again: undoes the link-down of these places."""
    _tell_undone(state.attach().undo_faults_at("link-down", *places), output)


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim fault rate pod/web --rate 10mbit
  netsim fault rate node/node-1 --rate 512kbit --direction out --for 1m
""",
)
@_places
@click.option("--rate", required=True, metavar="RATE", help="Bits in a second, with bit, kbit, mbit or gbit.")
@_direction
@_for
@_output
@pass_state
def rate(state: State, places: Sequence[str], rate: str, direction: str, for_: str | None, output: str | None) -> None:
    """Limit how much a place sends and receives. What would wait longer than 50 ms is dropped."""
    _make(state, output, "rate", places, rate=rate, direction=direction, for_=for_)


def _percent_command(name: str, words: str, examples: str) -> click.Command:
    """The commands that take a percentage of packets and nothing else."""

    @click.command(name, cls=NetsimCommand, examples=examples, help=words)
    @_places
    @click.option("--percent", required=True, metavar="P", help="Of all packets, each by chance; such as 5 or 0.1.")
    @_direction
    @_for
    @_output
    @pass_state
    def command(
        state: State, places: Sequence[str], percent: str, direction: str, for_: str | None, output: str | None
    ) -> None:
        _make(state, output, name, places, percent=percent, direction=direction, for_=for_)

    return command


loss = _percent_command(
    "loss",
    "Lose packets. By netem where the kernel has it, else by nft.",
    "netsim fault loss node/node-2 --percent 5",
)
duplicate = _percent_command(
    "duplicate", "Send packets twice. Needs netem.", "netsim fault duplicate pod/web --percent 1"
)
corrupt = _percent_command(
    "corrupt",
    "Turn over one bit somewhere in a packet; checksums find most of them. Needs netem.",
    "netsim fault corrupt pod/web --percent 0.1",
)


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim fault delay node/node-2 --delay 50ms --jitter 10ms
  netsim fault delay pod/web --delay 1s --direction out
""",
)
@_places
@click.option("--delay", required=True, metavar="TIME", help="How long every packet takes more.")
@click.option("--jitter", metavar="TIME", help="So much more or less, by chance.")
@_direction
@_for
@_output
@pass_state
def delay(
    state: State,
    places: Sequence[str],
    delay: str,
    jitter: str | None,
    direction: str,
    for_: str | None,
    output: str | None,
) -> None:
    """Delay packets; both ways, a round trip takes twice as much more. Needs netem."""
    _make(state, output, "delay", places, delay=delay, jitter=jitter, direction=direction, for_=for_)


@click.command(cls=NetsimCommand, examples="netsim fault reorder pod/web --percent 25 --delay 10ms")
@_places
@click.option("--percent", required=True, metavar="P", help="So many packets overtake the others.")
@click.option("--delay", metavar="TIME", help="How long the others are delayed; 10ms unless said.")
@_direction
@_for
@_output
@pass_state
def reorder(
    state: State,
    places: Sequence[str],
    percent: str,
    delay: str | None,
    direction: str,
    for_: str | None,
    output: str | None,
) -> None:
    """Bring packets out of order. Needs netem."""
    _make(state, output, "reorder", places, percent=percent, delay=delay, direction=direction, for_=for_)


@click.command(cls=NetsimCommand, examples="netsim fault mtu node/node-1 --mtu 1400")
@_places
@click.option("--mtu", required=True, metavar="BYTES", help="The largest packet, without the Ethernet header.")
@_for
@_output
@pass_state
def mtu(state: State, places: Sequence[str], mtu: str, for_: str | None, output: str | None) -> None:
    """Give the eth0 of a place another MTU. Larger packets that come to it are lost without a word."""
    _make(state, output, "mtu", places, mtu=mtu, for_=for_)


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim fault partition node/node-1,node/node-2 node/node-3
  netsim fault partition node/node-1 node/node-2 --one-way --for 10s
  netsim fault partition host/external node/node-1,node/node-2
""",
)
@click.argument("sets", nargs=-1, required=True, metavar="SET SET...", shell_complete=complete_places)
@click.option("--one-way", is_flag=True, help="Only from earlier sets to later ones.")
@_for
@_output
@pass_state
def partition(state: State, sets: Sequence[str], one_way: bool, for_: str | None, output: str | None) -> None:
    """Keep sets of nodes apart. A SET is one or more nodes, with commas between; host/external may be among them.

    Only what crosses the fabric is cut: the API hears from all nodes still.
    """
    split = [[place for place in one.split(",") if place] for one in sets]
    _make(state, output, "partition", split, one_way=one_way or None, for_=for_)


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim fault kill pod/web
  netsim fault kill pod/web --container main --signal TERM
""",
)
@_places
@click.option("-c", "--container", metavar="NAME", help="One container; default: all that run.")
@click.option("--signal", "signal_", metavar="SIGNAL", default="KILL", show_default=True, help="Such as KILL or TERM.")
@_output
@pass_state
def kill(state: State, places: Sequence[str], container: str | None, signal_: str, output: str | None) -> None:
    """Send a signal to the containers of pods. They start again by their restart policy."""
    made = state.attach().fault("kill", *places, container=container, signal=signal_)
    if output == "json":
        print_json(made.details)
        return
    for place, names in made.details["containers"].items():
        click.echo(f"{made.details['signal']} sent at {place}: {', '.join(names)}")


@click.command(cls=NetsimCommand, examples="netsim fault stop node/node-2 --for 2m")
@_places
@_for
@_output
@pass_state
def stop(state: State, places: Sequence[str], for_: str | None, output: str | None) -> None:
    """Switch nodes off: no network, all containers killed, their kubelets silent.

    After the grace period (40 s) the Node's Ready condition is Unknown and its pods are no endpoints any more; after
    another 300 s its pods are evicted, if they tolerate no longer.
    """
    _make(state, output, "stop", places, for_=for_)


@click.command(cls=NetsimCommand, examples="netsim fault start node/node-2")
@_places
@_output
@pass_state
def start(state: State, places: Sequence[str], output: str | None) -> None:
    """Switch nodes on again: undoes the stop of these nodes."""
    _tell_undone(state.attach().undo_faults_at("stop", *places), output)


@click.command("list", cls=NetsimCommand, examples="netsim fault list -o json")
@_output
@pass_state
def list_command(state: State, output: str | None) -> None:
    """The faults there are, and those that ended because what they were at is gone."""
    from netsim.faults.values import render_duration

    found = state.attach().describe_faults()
    if output == "json":
        print_json(found)
        return
    rows = []
    for one in found["faults"]:
        left = "-" if one["remainingS"] is None else render_duration(round(one["remainingS"], 1))
        rows.append([str(one["id"]), one["kind"], ", ".join(one["places"]), one["what"] or "-", one["by"], left])
    if rows:
        print_table(["ID", "FAULT", "PLACES", "WHAT", "BY", "LEFT"], rows)
    else:
        click.echo("there are no faults")
    for one in found["ended"]:
        if one["why"] not in ("undone", "time is up"):
            click.echo(f"fault {one['id']} ({one['kind']}) ended: {one['why']}")


def _complete_ids(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return complete_from(context, incomplete, lambda cluster, _namespace: [str(one["id"]) for one in cluster.faults()])


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim fault undo 3
  netsim fault undo --all
""",
)
@click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="[ID...]", shell_complete=_complete_ids)
@click.option("--all", "everything", is_flag=True, help="All there are.")
@_output
@pass_state
def undo(state: State, ids: Sequence[int], everything: bool, output: str | None) -> None:
    """Undo faults, in any order: what is left is as if they had never been."""
    from netsim.model.errors import UsageError

    if bool(ids) == everything:
        raise UsageError("which fault?", hint="netsim fault undo ID..., or --all; netsim fault list shows them")
    _tell_undone(state.attach().undo_faults(*ids), output)
