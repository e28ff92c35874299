"""``capture``: the frames at any number of places, in one file or on the terminal."""

import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from netsim.cli.base import NetsimCommand, State, complete_places, namespace_option, output_option, pass_state
from netsim.cli.output import render_table
from netsim.model.errors import NetsimError, UsageError
from netsim.model.names import EXTERNAL, FABRIC
from netsim.model.where import Where

if TYPE_CHECKING:
    from netsim.cluster.handle import Cluster
    from netsim.observe.capture import Capture, Totals
    from netsim.observe.sinks import Sink

SNAPLEN_MAX = 262144
# What is meant as a place, also where it is none. A filter's word with a slash begins with a number.
_PLACE = re.compile(rf"[A-Za-z]+/|{FABRIC}(:|$)")
_PLACES = "write pod/[NAMESPACE/]NAME, node/NAME, host/external or fabric, or several; a filter stands after them"
_MIN_WIDTH = 24


def _complete_places(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """WHERE, and the fabric, which only a capture knows as a place."""
    return [
        *complete_places(context, parameter, incomplete),
        *(place for place in (FABRIC,) if place.startswith(incomplete)),
    ]


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim capture pod/client node/node-1 node/node-2 tcp port 80
  netsim capture pod/client -w way.pcapng
  netsim capture --all -w - | wireshark -k -i -
  netsim capture node/node-1:cni0 fabric icmp or arp
  netsim capture pod/client -o json --count 10 udp port 53
""",
)
@click.argument("words", nargs=-1, metavar="WHERE... [FILTER]", shell_complete=_complete_places)
@click.option("-w", "--write", "file", metavar="FILE", help="Write pcapng to FILE; - is standard output.")
@click.option("-a", "--all", "everywhere", is_flag=True, help="Every pod, node and host there is now, and the fabric.")
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="End after N packets.")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="End after so long.")
@click.option(
    "-s",
    "--snaplen",
    type=click.IntRange(14, SNAPLEN_MAX),
    default=SNAPLEN_MAX,
    metavar="BYTES",
    help="Keep so much of each packet; default: all of it.",
)
@click.option("--merge", is_flag=True, help="Of each frame only its first crossing, not every one.")
@namespace_option
@output_option("text", "json")
@pass_state
def capture(  # noqa: PLR0913 - one for each option
    state: State,
    words: tuple[str, ...],
    *,
    file: str | None,
    everywhere: bool,
    count: int | None,
    duration: float | None,
    snaplen: int,
    merge: bool,
    namespace: str,
    output: str | None,
) -> None:
    """Capture packets at any number of places at once, by one clock and in order.

    WHERE is pod/[NAMESPACE/]NAME, node/NAME, host/NAME or fabric; with :INTERFACE only that one. The first word that is
    no place begins the FILTER, in tcpdump's language. Every crossing of an interface is a packet of its own. Without -w
    there is a line for each. Ctrl-C ends it.
    """
    from netsim.cluster.capture_run import parse_spots
    from netsim.kernel.bpf import compile_filter

    places, filter = split_words(words)
    if file == "-" and sys.stdout.isatty():
        raise UsageError("a terminal can't show pcapng", hint="-w FILE, or -w - | wireshark -k -i -; without -w: lines")
    if everywhere and places:
        raise UsageError("--all is every place there is", hint="leave out --all, or the places")
    if words and not places and not everywhere:
        raise UsageError(f'a capture needs a place, and "{words[0]}" is none', hint=_PLACES)
    spots = parse_spots(places, namespace) if not everywhere else []
    compile_filter(filter)  # before anything is asked of the cluster
    cluster = state.attach()
    spots = list_places(cluster) if everywhere else spots
    running = cluster.start_capture(
        spots,
        lambda: _make_sink(file, output, spots, filter, snaplen),
        filter=filter,
        snaplen=snaplen,
        count=count,
        duration_s=duration,
        merge=merge,
        skip_missing=everywhere,
        note=_tell,
    )
    with _ended_by_signals(running):
        _tell(f"capturing at {running.taps} place{'s' if running.taps != 1 else ''}; Ctrl-C ends it")
        totals = running.run()
    _report(totals, file, output)


def split_words(words: Sequence[str]) -> tuple[list[str], str]:
    """The places, and the filter: all from the first word on that is not meant as a place."""
    for position, word in enumerate(words):
        if not _PLACE.match(word):
            return list(words[:position]), " ".join(words[position:])
    return list(words), ""


def list_places(cluster: "Cluster") -> list[tuple[Where, str | None]]:
    """Every place of the cluster, pods last."""
    nodes = [Where("node", node["metadata"]["name"]) for node in cluster.list("nodes")]
    pods = [Where("pod", pod["metadata"]["name"], pod["metadata"]["namespace"]) for pod in cluster.list("pods")]
    return [(place, None) for place in (Where(FABRIC, FABRIC), Where("host", EXTERNAL), *nodes, *pods)]


def _make_sink(
    file: str | None, output: str | None, spots: Sequence[tuple[Where, str | None]], filter: str, snaplen: int
) -> "Sink":
    from netsim.cluster.capture_run import application_name
    from netsim.observe.sinks import FileSink, LineSink, render_json, render_line

    if file is not None:
        return FileSink(file, application=application_name(), snaplen=snaplen, filter=filter)
    if output == "json":
        return LineSink(render_json)
    width = max(_MIN_WIDTH, *(len(str(where)) + 8 for where, _ in spots))
    return LineSink(lambda crossing: render_line(crossing, width))


@contextmanager
def _ended_by_signals(running: "Capture") -> Iterator[None]:
    """Ctrl-C and SIGTERM end the capture in good order; a second one ends the program."""
    before: dict[int, Any] = {}

    def stop(number: int, _frame: Any) -> None:
        signal.signal(number, before[number])
        running.stop()

    for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _report(totals: "Totals", file: str | None, output: str | None) -> None:
    """The summary, on standard error; with a file and ``-o json`` as JSON on standard output."""
    seconds = (totals.ended_ns - totals.started_ns) / 1e9
    if output == "json" and file not in (None, "-"):
        places = {place: {"packets": packets, "dropped": lost} for place, (packets, lost) in totals.by_place.items()}
        found = {"file": file, "packets": totals.packets, "dropped": totals.dropped, "seconds": round(seconds, 3)}
        click.echo(json.dumps({**found, "ended": totals.reason, "places": places}, indent=2))
    else:
        _tell(_summary(totals, seconds))
    if totals.failure:
        named = file if file != "-" else None
        hint = f"what is there is valid: {totals.packets} packets" if named else ""
        raise NetsimError(f"cannot write: {totals.failure}", where=named or "standard output", hint=hint)


def _summary(totals: "Totals", seconds: float) -> str:
    said = "" if totals.reason in ("stopped", "count", "duration", "failed") else f"; {totals.reason}"
    lines = [f"{totals.packets} packets in {seconds:.1f} s, {totals.dropped} dropped by the kernel{said}"]
    rows = [[place, str(packets), str(dropped)] for place, (packets, dropped) in totals.by_place.items()]
    return "\n".join([*lines, render_table(["PLACE", "PACKETS", "DROPPED"], rows)])
