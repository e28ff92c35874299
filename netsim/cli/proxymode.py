"""The proxy's mode: show it, or have every node serve in another."""

import time

import click

from netsim.cli.base import NetsimCommand, State, output_option, pass_state
from netsim.cli.output import print_json, progress
from netsim.model.config import PROXY_MODES


@click.command(
    "proxy-mode",
    cls=NetsimCommand,
    examples=f"""
  netsim proxy-mode
  netsim proxy-mode {PROXY_MODES[-1]}
  netsim proxy-mode -o json
""",
)
@click.argument("mode", required=False, type=click.Choice(PROXY_MODES))
@output_option("json")
@pass_state
def proxy_mode(state: State, mode: str | None, output: str | None) -> None:
    """Show how kube-proxy makes its rules, or change that.

    The new rules are in place on every node before the old ones go: established connections go on. A node that cannot
    have the mode leaves the cluster in the old one.
    """
    cluster = state.attach()
    before = str(cluster.status()["proxyMode"])
    started = time.monotonic()
    if mode is not None and mode != before:
        with progress(f"switching to {mode}"):
            cluster.set_proxy_mode(mode)
    if output == "json":
        print_json({"proxyMode": mode or before, "before": before})
    elif mode is None:
        click.echo(before)
    elif mode == before:
        click.echo(f"proxy mode is {mode} already")
    else:
        click.echo(f"proxy mode is {mode} now, was {before} ({time.monotonic() - started:.2f} s)")
