"""What every command shares: the group, the options, the cluster it talks to."""

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from netsim.cluster.handle import Cluster

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(slots=True)
class State:
    """What the options before the command said."""

    cluster: str | None = None

    def attach(self, name: str | None = None) -> "Cluster":
        """The running cluster meant: ``name``, ``--cluster``, $NETSIM_CLUSTER, or the only one. Raises NetsimError."""
        from netsim.cluster.handle import attach  # 0.2 s, which --help need not take

        return close_at_end(attach(name or self.cluster))


def close_at_end(cluster: "Cluster") -> "Cluster":
    """``cluster``, whose connections are closed when the command is done."""
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(cluster.close)
    return cluster


class NetsimCommand(click.Command):
    """A command with examples at the end of its help, and ``--cluster`` after its name as well as before it."""

    def __init__(self, *args: Any, examples: str = "", cluster_option: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        if cluster_option:
            self.params.append(
                click.Option(
                    ["--cluster"],
                    metavar="NAME",
                    expose_value=False,
                    callback=_set_cluster,
                    help="The cluster; default: $NETSIM_CLUSTER, else the only one running.",
                    shell_complete=complete_clusters,
                )
            )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(self.examples, formatter)


class NetsimGroup(click.Group):
    """A group whose commands are imported when needed, and which knows what a mistyped name may mean."""

    def __init__(self, *args: Any, commands_at: Mapping[str, str], examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_at = commands_at
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_at)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The whole first sentence of each; click would cut it at 45 characters."""
        commands = [(name, self.get_command(ctx, name)) for name in self.commands_at]
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.get_short_help_str(limit=1000)) for name, found in commands if found])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self.commands_at.get(cmd_name)
        if found is None:
            return None
        module, _, attribute = found.partition(".")
        command: click.Command = getattr(importlib.import_module(f"netsim.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands_at and not args[0].startswith("-"):
            near = [] if args[0] == "help" else difflib.get_close_matches(args[0], self.commands_at, n=1)
            group = ctx.command_path
            hint = f"did you mean: {group} {near[0]}" if near else f"{group} --help lists the commands"
            from netsim.model.errors import UsageError

            raise UsageError(f'there is no command "{args[0]}"', hint=hint)
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(self.examples, formatter)


def write_examples(examples: str, formatter: click.HelpFormatter) -> None:
    """The examples as they are written, not wrapped."""
    if not examples:
        return
    formatter.write_paragraph()
    formatter.write("Examples:\n")
    formatter.write("".join(f"  {line.strip()}\n" for line in examples.strip().splitlines()))


def _set_cluster(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value:
        context.ensure_object(State).cluster = value


def split_targets(kind: str, names: Sequence[str], command: str) -> list[tuple[str, str]]:
    """KIND NAME... or KIND/NAME... as pairs of kind and name. Raises UsageError."""
    from netsim.model.errors import UsageError
    from netsim.model.kinds import find_kind
    from netsim.model.names import check_object_name

    word, slash, name = kind.partition("/")
    given = (name, *names) if slash and name else names
    if not given:
        raise UsageError(f"which {word}?", hint=f"netsim {command} {word} NAME")
    targets = []
    for one in given:
        other, has_kind, name = one.partition("/") if slash else ("", "", one)
        targets.append((other, name) if has_kind else (word, one))
    for of, name in targets:
        find_kind(of)
        check_object_name(name)
    return targets


# --- options ---


def output_option(*formats: str) -> Callable[[Function], Function]:
    """``-o``: the first of ``formats`` is not said but meant when there is no ``-o``."""
    return click.option(
        "-o", "--output", "output", type=click.Choice(formats), default=None, help="How to print the result."
    )


def namespace_option(function: Function) -> Function:
    """``-n``: the namespace, ``default`` unless said."""
    return click.option("-n", "--namespace", metavar="NS", default="default", show_default=True, help="The namespace.")(
        function
    )


def question_options(function: Function) -> Function:
    """FROM, TO and what else is asked of a packet's way, in ``trace`` and ``explain``."""
    for option in (
        click.option("--size", type=int, default=0, metavar="BYTES", help="Of what a udp or icmp packet carries."),
        click.option(
            "--ip-family", type=click.Choice(("ipv4", "ipv6")), help="Which address of TO; default: its first."
        ),
        click.option(
            "--protocol", type=click.Choice(("tcp", "udp", "icmp")), help="Default: that of the port, else tcp."
        ),
        namespace_option,
        click.argument("target", metavar="TO[:PORT]", shell_complete=complete_targets),
        click.argument("source", metavar="FROM", shell_complete=complete_places),
    ):
        function = option(function)
    return function


pass_state = click.pass_obj
_HOSTS = ("host/external",)

# --- completion of arguments; silent where no cluster answers, for a shell asks at every key ---


def complete_clusters(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of running clusters."""
    from netsim.cluster.state import list_states

    return [state.name for state in list_states() if state.name.startswith(incomplete) and state.is_running()]


def complete_kinds(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Kinds, in the plural."""
    from netsim.model.kinds import KINDS

    return [kind.plural for kind in KINDS if kind.plural.startswith(incomplete)]


def complete_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of the objects of the kind that was typed before."""
    kind = context.params.get("kind") or "pods"
    return complete_from(
        context, incomplete, lambda cluster, namespace: [o["metadata"]["name"] for o in cluster.list(kind, namespace)]
    )


def complete_places(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """WHERE: pods, nodes and the external host."""
    return complete_from(
        context,
        incomplete,
        lambda cluster, namespace: [*_list_words(cluster, ("pod", "node"), namespace, incomplete), *_HOSTS],
    )


def complete_services(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Services, as ``svc/[NAMESPACE/]NAME``."""
    return complete_from(
        context, incomplete, lambda cluster, namespace: _list_words(cluster, ("svc",), namespace, incomplete)
    )


def complete_targets(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """TO: places and Services, and after a Service's colon the names and numbers of its ports."""

    def list_targets(cluster: "Cluster", namespace: str) -> list[str]:
        service, colon, _ = incomplete.partition(":")
        if colon:
            return [f"{service}:{port}" for port in _list_ports(cluster, service, namespace)]
        return [*_list_words(cluster, ("pod", "node", "svc"), namespace, incomplete), *_HOSTS]

    return complete_from(context, incomplete, list_targets)


def complete_from(
    context: click.Context, incomplete: str, list_words: "Callable[[Cluster, str], Sequence[str]]"
) -> list[str]:
    """What begins as typed of ``list_words(cluster, namespace)``: of the cluster and the namespace typed before."""
    from netsim.model.errors import NetsimError

    try:
        with closing(State(_typed_cluster(context)).attach()) as cluster:
            words = list_words(cluster, context.params.get("namespace") or "default")
    except NetsimError:
        return []
    return [word for word in words if word.startswith(incomplete)]


def _list_words(cluster: "Cluster", kinds: Sequence[str], namespace: str, incomplete: str) -> list[str]:
    """``KIND/NAME``; ``KIND/NAMESPACE/NAME`` outside of ``namespace``, or where that is how it is being typed."""
    words = []
    for kind in kinds:
        if not f"{kind}/".startswith(incomplete[: len(kind) + 1]):
            continue  # a thousand pods are not asked for while a Service is typed
        for meta in (one["metadata"] for one in cluster.list(kind)):
            in_full = f"{kind}/{meta.get('namespace', namespace)}/"
            short = meta.get("namespace", namespace) == namespace and not incomplete.startswith(in_full)
            words.append(f"{kind}/{meta['name']}" if short else f"{in_full}{meta['name']}")
    return words


def _list_ports(cluster: "Cluster", service: str, namespace: str) -> list[str]:
    """Names and numbers of the ports of ``svc/[NAMESPACE/]NAME``; of other targets none. Raises NetsimError."""
    from netsim.model.target import parse_target

    target = parse_target(service, namespace)
    if not target.service:
        return []
    ports = cluster.get("svc", target.service, target.namespace)["spec"].get("ports", [])
    words = [port["name"] for port in ports if port.get("name")] + [str(port["port"]) for port in ports]
    return list(dict.fromkeys(words))  # cluster DNS has 53 twice


def _typed_cluster(context: click.Context) -> str | None:
    found = context.find_object(State)  # there if --cluster stands after the command: no command runs here
    cluster: str | None = found.cluster if found else context.find_root().params.get("cluster")
    return cluster
