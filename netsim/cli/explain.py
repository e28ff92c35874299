"""``explain``: where a packet would go, without sending it."""

import click

from netsim.cli.base import NetsimCommand, State, output_option, pass_state, question_options
from netsim.cli.output import has_colour, print_json, terminal_width
from netsim.cli.trace import NOT_DELIVERED


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim explain pod/client svc/web:80
  netsim explain host/external node/node-1:30080 --all-ways
  netsim explain pod/client svc/kube-system/kube-dns:dns --protocol udp
  netsim explain node/node-1 10.244.1.2 --protocol icmp -o json
""",
)
@question_options
@click.option("--all-ways", is_flag=True, help="Show every way that chance may take, not only the likeliest.")
@click.option("-a", "--all", "everything", is_flag=True, help="As text also rules that led nowhere, and policies.")
@output_option("text", "json")
@pass_state
def explain(  # noqa: PLR0913, PLR0917 - click hands over every option
    state: State,
    source: str,
    target: str,
    namespace: str,
    protocol: str | None,
    ip_family: str | None,
    size: int,
    all_ways: bool,
    everything: bool,
    output: str | None,
) -> int:
    """Predict a packet's way there and back, and what becomes of it, from the kernel's state. Nothing is sent.

    FROM is WHERE. TO is WHERE, svc/[NAMESPACE/]NAME or an address (IPv6 with a port in brackets); PORT is a number or a
    port's name. Exit status: 0 every way is delivered, 1 some way is not, 2 wrong usage.
    """
    from netsim.model.target import parse_target
    from netsim.model.where import parse_where
    from netsim.observe.explain.answer import dump_explanation, render_explanation

    found = state.attach().explain(
        str(parse_where(source, namespace)),
        str(parse_target(target, namespace)),
        protocol=protocol,  # type: ignore[arg-type] # click has checked them
        ip_family=ip_family,  # type: ignore[arg-type]
        size_bytes=size,
    )
    if output == "json":
        print_json(dump_explanation(found))
    else:
        colour, width = has_colour(), terminal_width()
        click.echo(render_explanation(found, every_way=all_ways, colour=colour, everything=everything, width=width))
    return 0 if all(way.path.verdict.outcome == "delivered" for way in found.ways) else NOT_DELIVERED
