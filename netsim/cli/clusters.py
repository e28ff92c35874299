"""Clusters: up, down, list, status, kubeconfig."""

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from netsim.cli.base import NetsimCommand, State, close_at_end, complete_clusters, output_option, pass_state
from netsim.cli.output import print_json, print_table, progress
from netsim.model.config import POD_NETWORKS, PROXY_MODES
from netsim.model.errors import NetsimError, UsageError
from netsim.model.networks import IP_FAMILIES

if TYPE_CHECKING:
    from netsim.cluster.handle import Cluster


def _check_name(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """``netsim down "$NAME"`` without NAME must not mean the only cluster there is."""
    if value == "":
        raise UsageError("the name of the cluster is empty", hint="give a name, or leave the argument out")
    return value


name_argument = click.argument("name", required=False, callback=_check_name, shell_complete=complete_clusters)


@click.command(
    cls=NetsimCommand,
    cluster_option=False,
    examples="""
  netsim up
  netsim up lab --nodes 5 --pod-network vxlan
  netsim up --config topology.yaml -o json
  netsim up --foreground        # ends with Ctrl-C
""",
)
@click.argument("name", required=False, callback=_check_name)
@click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="How many nodes.  [default: 3]")
@click.option(
    "--proxy-mode", type=click.Choice(PROXY_MODES), help="How kube-proxy makes its rules.  [default: iptables]"
)
@click.option(
    "--pod-network", type=click.Choice(POD_NETWORKS), help="How pods of two nodes reach each other.  [default: routes]"
)
@click.option(
    "--ip-family", type=click.Choice(tuple(IP_FAMILIES)), help="Address families of the cluster.  [default: ipv4]"
)
@click.option("--config", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="A topology file.")
@click.option("--foreground", is_flag=True, help="Stay until interrupted, and take the cluster down then.")
@output_option("json")
@pass_state
def up(  # noqa: PLR0913, PLR0917 - click hands over one for each option
    state: State,
    name: str | None,
    nodes: int | None,
    proxy_mode: str | None,
    pod_network: str | None,
    ip_family: str | None,
    config: str | None,
    foreground: bool,
    output: str | None,
) -> None:
    """Start a cluster and return when it is ready.

    Its name is NAME, else the name in --config, else --cluster or $NETSIM_CLUSTER, else "netsim". What is said here
    goes before what --config says.
    """
    from netsim.cluster import handle  # not needed for --help

    started = time.monotonic()
    with progress("starting") as tell:
        cluster = handle.up(
            name or (state.cluster if config is None else None),
            nodes=nodes,
            proxy_mode=proxy_mode,
            pod_network=pod_network,
            ip_family=ip_family,
            config=config,
            owned=foreground,
            progress=tell,
        )
        close_at_end(cluster)
        found = cluster.status()
    asked = _watch_signals() if foreground else None  # before anybody is told that it is up, and may end it
    if output == "json":
        print_json(found)
    else:
        _print_started(found, time.monotonic() - started)
    if asked is not None:
        _stay(cluster, asked)


def _print_started(status: dict[str, Any], took_s: float) -> None:
    name, nodes = status["name"], status["nodes"]
    families = "" if status["ipFamily"] == "ipv4" else f", IP family {status['ipFamily']}"
    click.echo(
        f'cluster "{name}" is up in {took_s:.2f} s: {_count(len(nodes), "node")}, '
        f"proxy mode {status['proxyMode']}, pod network {status['podNetwork']}{families}"
    )
    steps = {
        "netsim apply -f FILE": "deploy manifests",
        f"netsim shell node/{nodes[0]['name']}": "look around in a node",
        f"export KUBECONFIG=$(netsim kubeconfig {name})": "use kubectl",
        f"netsim down {name}": "end it",
    }
    width = max(map(len, steps))
    click.echo("next:")
    for command, what in steps.items():
        click.echo(f"  {command:<{width}}   {what}")


def _watch_signals() -> threading.Event:
    """An event that SIGINT, SIGTERM and SIGHUP set from now on."""
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    return asked


def _stay(cluster: "Cluster", asked: threading.Event) -> None:
    """Wait for ``asked`` or the end of the cluster process; the cluster is down afterwards."""
    click.echo("press Ctrl-C to end it", err=True)
    try:
        while not asked.wait(1.0):
            cluster.status()  # raises NetsimError when the cluster process has ended
    finally:
        cluster.down()


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim down
  netsim down lab
  netsim down --all
""",
)
@name_argument
@click.option("--all", "everything", is_flag=True, help="Every cluster, and what dead ones have left.")
@output_option("json")
@pass_state
def down(state: State, name: str | None, everything: bool, output: str | None) -> None:
    """End a cluster. Its namespaces, processes and state directory are gone afterwards."""
    from netsim.cluster.state import find_state, list_states

    wanted = name or state.cluster
    if everything and name:
        raise UsageError("NAME and --all together", hint="netsim down NAME, or netsim down --all")
    if everything:
        states = list_states()
    else:
        dead = [found for found in list_states() if found.name == wanted and not found.is_running()]
        states = dead or [find_state(wanted)]
    with progress("stopping"):
        for found in states:
            _stop(found)
    if output == "json":
        print_json({"stopped": [found.name for found in states]})
        return
    for found in states:
        click.echo(f'cluster "{found.name}" is down')
    if not states:
        click.echo("no cluster is running", err=True)


def _stop(state: Any) -> None:
    from netsim.cluster.launch import stop

    stop(state)


@click.command(
    "list",
    cls=NetsimCommand,
    cluster_option=False,
    examples="""
  netsim list
  netsim list -o json
""",
)
@output_option("json")
def list_clusters(output: str | None) -> None:
    """List the clusters of this user, and dead ones that have left a state directory."""
    from netsim.cluster.state import list_states

    found = []
    for state in list_states():
        status = state.read_status()
        found.append(
            {
                "name": state.name,
                "state": _state_word(state.is_running(), status),
                "pid": status.get("pid"),
                "nodes": len(status.get("nodes") or ()),
                "proxyMode": status.get("proxyMode", ""),
                "podNetwork": status.get("podNetwork", ""),
                "stateDir": str(state.path),
            }
        )
    if output == "json":
        print_json(found)
    elif found:
        header = ("NAME", "STATE", "PID", "NODES", "PROXY-MODE", "POD-NETWORK", "STATE-DIR")
        print_table(header, [["-" if value in (None, "") else str(value) for value in row.values()] for row in found])
    else:
        click.echo("no cluster is running; netsim up starts one", err=True)


def _state_word(running: bool, status: dict[str, Any]) -> str:
    if not running:
        return "dead"
    return "running" if status.get("pid") else "starting"


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim status
  netsim status lab -o json
""",
)
@name_argument
@output_option("json")
@pass_state
def status(state: State, name: str | None, output: str | None) -> None:
    """Show a cluster: its process, its API server, its nodes."""
    found = state.attach(name).status()
    if output == "json":
        print_json(found)
        return
    labels = (("name", "Name"), ("pid", "Process"), ("apiServer", "API server"), ("kubeconfig", "Kubeconfig"))
    for key, label in (*labels, ("proxyMode", "Proxy mode"), ("podNetwork", "Pod network"), ("ipFamily", "IP family")):
        click.echo(f"{label + ':':<13}{found.get(key, '')}")
    nodes = [_flatten(node) if isinstance(node, dict) else {"name": node} for node in found.get("nodes", ())]
    if nodes:
        columns = [key for key in nodes[0] if all(not isinstance(node.get(key), dict | list) for node in nodes)]
        click.echo()
        print_table([_heading(key) for key in columns], [[str(n.get(key, "")) for key in columns] for n in nodes])


def _flatten(node: dict[str, Any]) -> dict[str, Any]:
    """A node as a row: where it has several of something, they share the column of the first."""
    several = {"address": "addresses", "podCIDR": "podCIDRs"}
    return {key: ", ".join(node.get(several.get(key, ""), ())) or value for key, value in node.items()}


def _heading(key: str) -> str:
    return "".join(f"-{c}" if c.isupper() and i and not key[i - 1].isupper() else c for i, c in enumerate(key)).upper()


@click.command(
    cls=NetsimCommand,
    examples="""
  export KUBECONFIG=$(netsim kubeconfig)
  netsim kubeconfig lab --raw > lab.kubeconfig
""",
)
@name_argument
@click.option("--raw", is_flag=True, help="Print the content instead of the path.")
@pass_state
def kubeconfig(state: State, name: str | None, raw: bool) -> None:
    """Print the path of a cluster's kubeconfig. It is as good as a password: its owner runs commands as you."""
    path = state.attach(name).kubeconfig
    if not raw:
        click.echo(str(path))
        return
    try:
        click.echo(path.read_text(), nl=False)
    except OSError as error:
        raise NetsimError(f"cannot read the kubeconfig: {error.strerror}", where=str(path)) from error


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
