"""``get``: the API server's own tables, so that the columns are kubectl's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from netsim.cli.base import (
    NetsimCommand,
    State,
    complete_kinds,
    complete_names,
    namespace_option,
    output_option,
    pass_state,
)
from netsim.cli.errors import print_error
from netsim.cli.output import print_json, print_table, print_yaml
from netsim.cli.stream import watch_lines
from netsim.model.errors import ApiError, UsageError
from netsim.model.kinds import DEPLOYMENT, POD, REPLICA_SET, SERVICE, Kind, find_kind
from netsim.model.names import check_object_name

if TYPE_CHECKING:
    from netsim.cluster.handle import Cluster

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_ALL = (POD, SERVICE, DEPLOYMENT, REPLICA_SET)  # in kubectl's order


@dataclass(frozen=True, slots=True)
class Query:
    """What to get: of each kind the named ones, each by itself, or all that match where there are no names."""

    targets: Mapping[Kind, tuple[str, ...]]
    namespace: str | None  # None: all
    selector: str
    fields: str

    @property
    def names(self) -> int:
        """How many objects are asked for by name."""
        return sum(len(names) for names in self.targets.values())

    def path(self, kind: Kind, name: str | None = None) -> str:
        return kind.path(self.namespace, name)

    def parameters(self) -> dict[str, str]:
        found = {"labelSelector": self.selector, "fieldSelector": self.fields}
        return {key: value for key, value in found.items() if value}


class Reader:
    """Asks for what a query names. What is not there is kept for the end: the rest is shown, as kubectl does."""

    def __init__(self, cluster: "Cluster", query: Query, accept: str = "") -> None:
        self._cluster, self._query, self._accept = cluster, query, accept
        self._missing: list[ApiError] = []

    def read(self, kind: Kind) -> list[tuple[str | None, Any]]:
        """The answers for one kind, with the name that was asked for, or None for a list. Raises ApiError."""
        found: list[tuple[str | None, Any]] = []
        for name in self._query.targets[kind] or (None,):
            path, parameters = self._query.path(kind, name), self._query.parameters()
            try:
                body = check(self._cluster.request("GET", path, query=parameters, accept=self._accept))
            except ApiError as error:
                if name is None or error.code != 404 or self._query.names == 1:
                    raise
                self._missing.append(error)
            else:
                found.append((name, body))
        return found

    def finish(self) -> None:
        """Raise ApiError for the last that was not there; the others are told before."""
        if not self._missing:
            return
        *others, last = self._missing
        for error in others:
            print_error(error.message)
        raise last


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim get pods -o wide
  netsim get pods,services -A
  netsim get all
  netsim get deployment web -o yaml
  netsim get pod/client svc/web
  netsim get pods -l app=web --watch
""",
)
@click.argument("kind", shell_complete=complete_kinds)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_names)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of every namespace.")
@click.option("-l", "--selector", metavar="SELECTOR", default="", help="A label selector, such as app=web,tier!=db.")
@click.option(
    "--field-selector", metavar="SELECTOR", default="", help="A field selector, such as spec.nodeName=node-1."
)
@click.option("-w", "--watch", is_flag=True, help="Go on, and print what changes.")
@output_option("wide", "json", "yaml", "name")
@pass_state
def get(  # noqa: PLR0913, PLR0917  # click hands over one argument for each option
    state: State,
    kind: str,
    names: tuple[str, ...],
    namespace: str,
    all_namespaces: bool,
    selector: str,
    field_selector: str,
    watch: bool,
    output: str | None,
) -> None:
    """List objects of a KIND, or show some by NAME.

    KIND is pods, po, services, svc, ...; several with commas; "all" for the usual ones; or KIND/NAME, of
    several kinds. What is not there is told after what is, and the exit status is 1.
    """
    query = _plan(kind, names, None if all_namespaces else namespace, selector, field_selector)
    if watch and (len(query.targets) > 1 or query.names > 1 or output not in (None, "wide")):
        raise UsageError("--watch follows one kind, or one object, as a table", hint=f"netsim get {kind} --watch")
    cluster = state.attach()
    if output in ("json", "yaml", "name"):
        _print_objects(cluster, query, output)
    else:
        revision = _print_tables(cluster, query, wide=output == "wide", quiet=watch)
        if watch:
            _follow(cluster, query, revision, wide=output == "wide")


def _plan(kind: str, names: tuple[str, ...], namespace: str | None, selector: str, fields: str) -> Query:
    """The query of a command line. Raises UsageError."""
    targets = _plan_objects(kind, names) if "/" in kind else _plan_kinds(kind, names)
    query = Query(targets, namespace, selector, fields)
    if query.names and (selector or fields):
        raise UsageError("a NAME and a selector together", hint="give one of them")
    if query.names and namespace is None and any(kind.namespaced for kind in targets):
        raise UsageError("a NAME and --all-namespaces together", hint="say the namespace: -n NS")
    return query


def _plan_kinds(kind: str, names: tuple[str, ...]) -> dict[Kind, tuple[str, ...]]:
    """KIND[,KIND...] [NAME...]"""
    for name in names:
        check_object_name(name)
    kinds = _ALL if kind == "all" else tuple(find_kind(part) for part in kind.split(",") if part)
    if not kinds:
        raise UsageError("no KIND", hint="netsim get pods")
    return dict.fromkeys(kinds, names)


def _plan_objects(first: str, others: tuple[str, ...]) -> dict[Kind, tuple[str, ...]]:
    """KIND/NAME..., of one kind or several; those of one kind come together."""
    targets: dict[Kind, tuple[str, ...]] = {}
    for given in (first, *others):
        word, slash, name = given.partition("/")
        if not slash:
            example = f"netsim get {first.replace('/', ' ')} {given}" if len(others) == 1 else "netsim get pod/a svc/b"
            raise UsageError(f"{first} and another name, without its kind", hint=example)
        kind = find_kind(word)
        targets[kind] = (*targets.get(kind, ()), check_object_name(name))
    return targets


def check(response: Any) -> Any:
    """The body of a response. Raises ApiError if it is a failure."""
    if response.status >= 400:
        body = response.body
        if isinstance(body, Mapping):
            raise ApiError.from_status(body)
        raise ApiError(response.status, "", str(body))
    return response.body


def _print_objects(cluster: "Cluster", query: Query, output: str) -> None:
    objects = []
    reader = Reader(cluster, query)
    for kind in query.targets:
        for name, body in reader.read(kind):
            found = body.get("items") or [] if name is None else [body]
            objects += [{"apiVersion": kind.api_version, "kind": kind.kind, **obj} for obj in found]
    if output == "name":
        for obj in objects:
            click.echo(qualified_name(obj["apiVersion"], obj["kind"], obj["metadata"]["name"]))
        reader.finish()
        return
    result = (
        objects[0]
        if query.names == 1
        else {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects}
    )
    (print_json if output == "json" else print_yaml)(result)
    reader.finish()


def qualified_name(api_version: str, kind: str, name: str) -> str:
    """``pod/web``, ``deployment.apps/web``: how kubectl names an object in one word."""
    group = api_version.rpartition("/")[0]
    return f"{kind.lower()}.{group}/{name}" if group else f"{kind.lower()}/{name}"


def _print_tables(cluster: "Cluster", query: Query, *, wide: bool, quiet: bool) -> str:
    """Print a table for each kind that has objects; the revision of the last."""
    printed = 0
    revision = ""
    reader = Reader(cluster, query, TABLE)
    for kind in query.targets:
        tables = [table for _, table in reader.read(kind)]
        if not tables:
            continue
        revision = str((tables[0].get("metadata") or {}).get("resourceVersion") or "")
        rows = [row for table in tables for row in table.get("rows") or ()]
        if not rows:
            continue
        if printed:
            click.echo()
        printed += 1
        namespaces = query.namespace is None and kind.namespaced
        prefix = kind if len(query.targets) > 1 else None
        header, cells = table_cells(tables[0]["columnDefinitions"], rows, wide, namespaces=namespaces, prefix=prefix)
        print_table(header, cells)
    reader.finish()
    if not printed and not quiet:
        of = f"in {query.namespace} namespace" if query.namespace and next(iter(query.targets)).namespaced else ""
        click.echo(f"No resources found {of}".rstrip() + ("." if of else ""), err=True)
    return revision


def table_cells(
    columns: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    wide: bool,
    *,
    namespaces: bool = False,
    prefix: Kind | None = None,
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a Table (meta.k8s.io/v1). Columns of a priority other than 0 are for ``wide``."""
    shown = [i for i, column in enumerate(columns) if wide or not column.get("priority")]
    header = [str(columns[i]["name"]).upper() for i in shown]
    cells = [[_cell(row["cells"][i]) for i in shown] for row in rows]
    if prefix is not None:
        for line in cells:
            line[0] = qualified_name(prefix.api_version, prefix.kind, line[0])
    if namespaces:
        header.insert(0, "NAMESPACE")
        for line, row in zip(cells, rows, strict=True):
            line.insert(0, str(((row.get("object") or {}).get("metadata") or {}).get("namespace") or ""))
    return header, cells


def _cell(value: Any) -> str:
    return "<none>" if value is None else str(value)


def _follow(cluster: "Cluster", query: Query, revision: str, *, wide: bool) -> None:
    """Print rows as they change, until interrupted."""
    ((kind, names),) = query.targets.items()
    parameters = {**query.parameters(), "watch": "true", "resourceVersion": revision}
    if names:
        parameters["fieldSelector"] = f"metadata.name={names[0]}"
    columns: list[dict[str, Any]] = []
    for event in watch_lines(cluster, query.path(kind), parameters, TABLE):
        table = event["object"]
        if event["type"] == "ERROR":
            raise ApiError.from_status(table)
        if event["type"] == "BOOKMARK" or table.get("kind") != "Table":
            continue
        columns = table.get("columnDefinitions") or columns
        namespaces = query.namespace is None and kind.namespaced
        _, cells = table_cells(columns, table["rows"], wide, namespaces=namespaces)
        for line in cells:
            click.echo("   ".join(line))
