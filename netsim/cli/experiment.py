"""Experiments: one file run for every combination of a matrix, each in a cluster of its own, and one report."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netsim.cli.base import NetsimCommand, NetsimGroup, output_option
from netsim.cli.output import print_json, print_table, progress
from netsim.model.errors import UsageError

if TYPE_CHECKING:
    from netsim.experiment.result import Result

_NOT_AS_EXPECTED = 1
_COMMANDS = {"run": "experiment.run", "list": "experiment.list_command"}


@click.command(
    cls=NetsimGroup,
    commands_at=_COMMANDS,
    examples="""
  netsim experiment list
  netsim experiment run four-kinds
  netsim experiment run my.yaml --only proxyMode=nftables --out report
""",
)
def experiment() -> None:
    """Run steps and check expectations in every combination of a matrix of parameters, and compare them."""


@click.command(
    cls=NetsimCommand,
    cluster_option=False,
    examples="""
  netsim experiment run client-address
  netsim experiment run service-scale --only services=100,1000 --out scale
  netsim experiment run my.yaml --only proxyMode=iptables --only podNetwork=vxlan
  netsim experiment run my.yaml --list
""",
)
@click.argument("file", metavar="FILE|NAME")
@click.option("--out", metavar="DIR", help="The report's folder; default: NAME-report here.")
@click.option("--only", multiple=True, metavar="KEY=VALUE[,...]", help="Only these values of a key of the matrix.")
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="How many at once; default: the processors.")
@click.option("--list", "only_list", is_flag=True, help="Check the file and list its combinations; run nothing.")
@output_option("text", "json")
def run(file: str, out: str | None, only: Sequence[str], jobs: int | None, only_list: bool, output: str | None) -> int:
    """Run the experiment in FILE, or a shipped one by its NAME, and write report.html, report.json and junit.xml.

    Experiments with loads and measurements run one combination at a time, whatever --jobs says. Exit status: 0 all
    expectations held in every combination that this kernel can run, 1 they did not, 2 wrong usage, 130 interrupted.
    """
    from netsim.experiment.files import choose_combinations, find_file, read_experiment
    from netsim.experiment.report import check_folder, write_report
    from netsim.experiment.report_json import render_json
    from netsim.experiment.run import run_experiment

    chosen = choose_combinations(read_experiment(find_file(file)), _parse_only(only))
    if only_list:
        _list_combinations(chosen, output)
        return 0
    folder = Path(out or f"{chosen.name}-report")
    check_folder(folder)
    with progress(f"{chosen.name}: {len(chosen.combinations)} combinations") as told, _ended_like_ctrl_c():
        result = run_experiment(chosen, jobs=jobs, tell=told)
    if output == "json":
        print_json(render_json(result))
    else:
        _print_result(result)
    write_report(result, folder)  # after the words: on a full disk they are all there is
    if output != "json":
        click.echo(f"report: {folder / 'report.html'}")
    if result.interrupted:
        raise KeyboardInterrupt
    return 0 if result.passed else _NOT_AS_EXPECTED


@click.command("list", cls=NetsimCommand, cluster_option=False, examples="netsim experiment list")
@output_option("text", "json")
def list_command(output: str | None) -> None:
    """The experiments that come with netsim; with -o json also where their files are."""
    from netsim.experiment.files import list_shipped, read_experiment

    found = [(path, read_experiment(path)) for path in list_shipped()]
    if output == "json":
        print_json(
            [
                {"name": one.name, "title": one.title, "combinations": len(one.combinations), "file": str(path)}
                for path, one in found
            ]
        )
        return
    print_table(
        ("NAME", "COMBINATIONS", "TITLE"), [(one.name, str(len(one.combinations)), one.title) for _, one in found]
    )


def _parse_only(only: Sequence[str]) -> dict[str, list[str]]:
    chosen: dict[str, list[str]] = {}
    for text in only:
        key, equals, values = text.partition("=")
        if not key or not equals or not values:
            raise UsageError(f"--only {text}: is not KEY=VALUE", hint="such as --only proxyMode=nftables")
        chosen.setdefault(key, []).extend(values.split(","))
    return chosen


def _list_combinations(experiment: Any, output: str | None) -> None:
    if output == "json":
        print_json(
            [{"values": dict(one.values), "steps": [s.name for s in one.steps]} for one in experiment.combinations]
        )
        return
    for one in experiment.combinations:
        click.echo(f"{one.label}  ({len(one.steps)} steps)")


def _print_result(result: "Result") -> None:
    rows = []
    for one in result.combinations:
        held, failed = one.count("held"), one.count("failed")
        rows.append((one.label, one.status, str(held), str(failed), f"{one.elapsed_s:.1f}s"))
    print_table(("COMBINATION", "RESULT", "HELD", "FAILED", "TIME"), rows)
    for one in result.combinations:
        for step in one.steps:
            for check in step.checked:
                if check.held == "failed":
                    click.echo(f"\n{result.call(one.label)}: {step.name}: {check.text}\n  found: {check.found}")
    for why, status, labels in result.list_reasons():
        click.echo(f"\n{', '.join(labels)} {status}: {why}" if why else f"\n{', '.join(labels)} {status}")
    counts = [
        f"{result.count(s)} {s}" for s in ("passed", "failed", "error", "skipped", "interrupted") if result.count(s)
    ]
    click.echo(f"\n{', '.join(counts)} of {len(result.combinations)} combinations in {result.elapsed_s:.1f} s")


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does: with a report, and no cluster left."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
