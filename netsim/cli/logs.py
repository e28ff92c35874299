"""``logs``: what containers have printed."""

import sys

import click

from netsim.cli.base import NetsimCommand, State, complete_names, namespace_option, pass_state
from netsim.cli.stream import chunks, open_stream
from netsim.model.errors import ApiError, UsageError
from netsim.model.kinds import KINDS, POD
from netsim.model.names import check_object_name

KIND_WORDS = {word for kind in KINDS for word in (kind.plural, kind.singular, *kind.short_names)} - {
    "pod",
    "pods",
    "po",
}


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim logs web-0
  netsim logs web-0 -c sidecar --tail 20
  netsim logs kube-system/coredns-7c9d8 -f
""",
)
@click.argument("pod", shell_complete=complete_names)
@namespace_option
@click.option("-c", "--container", metavar="NAME", help="Which container; needed where a pod has several.")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is printed.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@pass_state
def logs(state: State, pod: str, namespace: str, container: str | None, follow: bool, tail: int | None) -> None:
    """Print what a POD's container has written. POD is NAME, NAMESPACE/NAME or pod/NAME."""
    parts = pod.removeprefix("pod/").removeprefix("pods/").split("/")
    if len(parts) > 2 or not all(parts):
        raise UsageError(f'"{pod}" is no pod', hint="write NAME or NAMESPACE/NAME")
    name, namespace = check_object_name(parts[-1]), parts[0] if len(parts) == 2 else namespace
    cluster = state.attach()
    query = {
        "container": container or "",
        "follow": "true" if follow else "",
        "tailLines": "" if tail is None else str(tail),
    }
    path = POD.path(namespace, name, "log")
    try:
        response = open_stream(cluster, path, {key: value for key, value in query.items() if value})
    except ApiError as error:
        if error.code == 404 and pod.split("/", maxsplit=1)[0] in KIND_WORDS:
            error.hint = f"logs are of pods, by name: netsim get pods -l SELECTOR lists those of {pod}"
        if error.code == 400 and not error.hint:
            error.hint = (
                f"-c NAME chooses a container; netsim describe pod {name} -n {namespace} shows them and their states"
            )
        raise
    for piece in chunks(response):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
