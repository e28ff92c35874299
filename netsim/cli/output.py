"""How results are printed: JSON, YAML, tables with kubectl's spacing; colour, width and progress on a terminal."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

_GAP = 3  # spaces between columns, as kubectl has them


def print_json(value: Any) -> None:
    """JSON for machines, indented so that people can read it too."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_yaml(value: Any) -> None:
    """YAML as kubectl prints it: keys in order, lists not indented."""
    import yaml  # only needed here

    click.echo(yaml.safe_dump(value, sort_keys=True, allow_unicode=True, default_flow_style=False), nl=False)


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, without spaces at the ends of lines."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "".join(cell.ljust(width + _GAP) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    click.echo(render_table(header, rows))


def has_colour() -> bool:
    """https://no-color.org"""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal_width() -> int | None:
    """Columns of standard output; None, where lines stay whole: it is no terminal, or one of unknown width."""
    return (shutil.get_terminal_size(fallback=(0, 0)).columns or None) if sys.stdout.isatty() else None


@contextmanager
def progress(start: str) -> Iterator[Callable[[str], None]]:
    """A spinner with changing words on standard error, if that is a terminal; silence otherwise."""
    if not sys.stderr.isatty():
        yield lambda _words: None
        return
    from rich.console import Console  # 60 ms, and only on a terminal

    with Console(stderr=True).status(start) as status:
        yield status.update
