"""``rules``: what serves one Service in the kernel."""

import click

from netsim.cli.base import NetsimCommand, State, complete_services, namespace_option, output_option, pass_state
from netsim.cli.output import print_json, terminal_width


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim rules svc/web
  netsim rules svc/shop/web --node node-1
  netsim rules web -o json
""",
)
@click.argument("service", shell_complete=complete_services)
@click.option("--node", metavar="NODE", help="Only this node; default: all of them.")
@namespace_option
@output_option("text", "json")
@pass_state
def rules(state: State, service: str, node: str | None, namespace: str, output: str | None) -> None:
    """The rules and map elements that serve one SERVICE, read back from the kernel, with counters where it keeps any.

    SERVICE is svc/[NAMESPACE/]NAME. Of chains that serve others too only the lines that lead on are shown, after "...".
    """
    from netsim.model.target import parse_service
    from netsim.observe.rules.render import dump_rules, render_rules

    target = parse_service(service, namespace)
    found = state.attach().rules(str(target), node=node and node.removeprefix("node/"))
    if output == "json":
        print_json(dump_rules(found))
    else:
        click.echo(render_rules(found, width=terminal_width()), nl=False)
