"""``trace``: a real probe, and its whole way there and back."""

import json
from typing import TYPE_CHECKING

import click

from netsim.cli.base import NetsimCommand, State, output_option, pass_state, question_options
from netsim.cli.files import check_writable, write_file
from netsim.cli.output import has_colour, progress, terminal_width
from netsim.model.errors import UsageError

if TYPE_CHECKING:
    from netsim.observe.spread import Spread

NOT_DELIVERED = 1
_MAX_COUNT = 100_000


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim trace pod/client svc/web:80
  netsim trace host/external node/node-1:30080
  netsim trace pod/client svc/kube-system/kube-dns:dns --protocol udp
  netsim trace pod/client pod/web-1 --protocol icmp --size 1472
  netsim trace pod/client svc/web --count 20
  netsim trace pod/client svc/web -o html -w way.html
""",
)
@question_options
@click.option("--count", type=int, default=1, metavar="N", help="Send N probes, one after the other.")
@click.option("--timeout", type=float, default=0.7, show_default=True, metavar="SECONDS", help="How long to wait.")
@click.option("-w", "--write", "file", metavar="FILE", help="Write to a file and not to standard output.")
@click.option("-a", "--all", "everything", is_flag=True, help="As text also rules that led nowhere, and policies.")
@output_option("text", "json", "html")
@pass_state
def trace(  # noqa: PLR0913, PLR0917 - click hands over every option
    state: State,
    source: str,
    target: str,
    namespace: str,
    protocol: str | None,
    ip_family: str | None,
    size: int,
    count: int,
    timeout: float,
    file: str | None,
    everything: bool,
    output: str | None,
) -> int:
    """Send a real probe and show its way there and back: every interface, hook, rule, rewrite and route.

    FROM is WHERE. TO is WHERE, svc/[NAMESPACE/]NAME or an address (IPv6 with a port in brackets); PORT is a number or a
    port's name, and need not be said where there is one only. Exit status: 0 the probe was delivered, 1 it was not (or
    the trace could not be made), 2 wrong usage.
    """
    from netsim.model.target import parse_target
    from netsim.model.where import parse_where
    from netsim.observe.spread import Spread

    if not 1 <= count <= _MAX_COUNT:
        raise UsageError(f"--count: {count} is not 1 to {_MAX_COUNT}")
    place, to = str(parse_where(source, namespace)), str(parse_target(target, namespace))
    if file is not None:
        check_writable(file)
    cluster = state.attach()
    spread = Spread()
    interrupted = False
    with progress(f"{place} to {to}") as told:
        try:
            for _ in range(count):
                spread.add(
                    cluster.trace(
                        place,
                        to,
                        protocol=protocol,  # type: ignore[arg-type] # click has checked them
                        ip_family=ip_family,  # type: ignore[arg-type]
                        size_bytes=size,
                        timeout_s=timeout,
                    )
                )
                if count > 1:
                    told(f"{place} to {to}: {spread.count} of {count}")
        except KeyboardInterrupt:
            if not spread.groups:
                raise
            interrupted = True
    _show(spread, output or "text", file, many=count > 1, everything=everything)
    if interrupted:
        raise KeyboardInterrupt
    return 0 if spread.delivered == spread.count else NOT_DELIVERED


def _show(spread: "Spread", output: str, file: str | None, *, many: bool, everything: bool) -> None:
    from netsim.observe.pathhtml import render_html
    from netsim.observe.pathjson import render_path, render_spread
    from netsim.observe.pathtext import render_spread_text, render_text

    first = spread.groups[0].path
    if output == "json":
        document = render_spread(spread) if many else render_path(first)
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    elif output == "html":
        text = render_html(spread)
    else:
        colour, width = (has_colour(), terminal_width()) if file is None else (False, None)
        if many:
            text = render_spread_text(spread, colour=colour, everything=everything, width=width) + "\n"
        else:
            text = render_text(first, colour=colour, everything=everything, width=width) + "\n"
    if file is None:
        click.echo(text, nl=False)
    else:
        write_file(file, text)
