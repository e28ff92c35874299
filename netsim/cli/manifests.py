"""``apply`` and ``delete``: manifests in, and objects out again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netsim.cli.base import (
    NetsimCommand,
    State,
    complete_kinds,
    complete_names,
    namespace_option,
    output_option,
    pass_state,
    split_targets,
)
from netsim.cli.get import qualified_name
from netsim.cli.output import print_json, progress
from netsim.model.errors import NetsimError, UsageError
from netsim.model.objects import Object

if TYPE_CHECKING:
    from netsim.cluster.handle import Cluster
    from netsim.model.manifests import SourceObject

files_option = click.option(
    "-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="Manifests; may be repeated; - is a pipe."
)
wait_options = (
    click.option("--no-wait", is_flag=True, help="Do not wait until it is done."),
    click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), default=60, show_default=True, metavar="SECONDS",
        help="How long to wait.",
    ),
)  # fmt: skip


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim apply -f guestbook.yaml
  netsim apply -f manifests/ -n shop --timeout 120
  kustomize build . | netsim apply -f -
""",
)
@files_option
@namespace_option
@wait_options[0]
@wait_options[1]
@output_option("json", "name")
@pass_state
def apply(
    state: State, files: tuple[str, ...], namespace: str, no_wait: bool, timeout: float, output: str | None
) -> None:
    """Create or change the objects of manifests, and return when all of them are ready.

    Ready means that pods run and are ready, and that every node's rules have all of it: the next packet takes
    the new path.
    """
    sources = _read(files, "apply")
    cluster = state.attach()
    applied = []
    for source in sources:  # one by one, so that what was done is told even if the next one fails
        (done,) = cluster.apply([source], namespace=namespace, wait=False)
        applied.append(done)
        if output is None:
            click.echo(str(done))
    if not no_wait:
        with progress(f"waiting for {len(applied)} objects to be ready"):
            cluster.wait_ready([item.object for item in applied], timeout_s=timeout)
    if output == "json":
        print_json([{"change": item.change, "object": item.object} for item in applied])
    elif output == "name":
        for item in applied:
            click.echo(qualified_name(item.kind.api_version, item.kind.kind, item.object["metadata"]["name"]))


def _read(files: Sequence[str], command: str) -> "list[SourceObject]":
    """The objects of all files. Raises UsageError if there is none, InputError if one is wrong."""
    from netsim.client.manifest_files import STDIN, read_manifests  # PyYAML, which --help need not load

    if not files:
        raise UsageError("no manifests", hint=f"netsim {command} -f FILE (or a directory, or - for a pipe)")
    if files.count(STDIN) > 1:
        raise UsageError("-f - twice: there is only one standard input")
    return [source for file in files for source in read_manifests(file)]


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim delete -f guestbook.yaml
  netsim delete pod web-0
  netsim delete deployment/web -n shop
""",
)
@click.argument("kind", required=False, shell_complete=complete_kinds)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_names)
@files_option
@namespace_option
@wait_options[0]
@wait_options[1]
@output_option("json", "name")
@pass_state
def delete(
    state: State,
    kind: str | None,
    names: tuple[str, ...],
    files: tuple[str, ...],
    namespace: str,
    no_wait: bool,
    timeout: float,
    output: str | None,
) -> None:
    """Delete the objects of manifests, or those of a KIND by NAME, and return when they are gone."""
    if files and kind:
        raise UsageError("-f and KIND together", hint="netsim delete -f FILE, or netsim delete KIND NAME")
    if not files and kind is None:
        raise UsageError("nothing to delete", hint="netsim delete -f FILE, or netsim delete KIND NAME")
    cluster: Cluster
    deleted: list[Object] = []
    if kind is None:
        sources = _read(files, "delete")
        cluster = state.attach()
        with progress(f"deleting {len(sources)} objects"):
            deleted = cluster.delete(sources, namespace=namespace, wait=not no_wait, timeout_s=timeout)
    else:
        targets = split_targets(kind, names, "delete")
        cluster = state.attach()
        try:
            for word, name in targets:
                with progress(f"deleting {word}/{name}"):
                    deleted += cluster.delete(word, name, namespace=namespace, wait=not no_wait, timeout_s=timeout)
        except NetsimError:
            _print_deleted(deleted, output)  # what was done is told even if the next one fails
            raise
    _print_deleted(deleted, output)


def _print_deleted(deleted: Sequence[Object], output: str | None) -> None:
    if output == "json":
        print_json([{"change": "deleted", "object": obj} for obj in deleted])
        return
    for obj in deleted:
        name = qualified_name(obj["apiVersion"], obj["kind"], obj["metadata"]["name"])
        click.echo(name if output == "name" else f"{name} deleted")
