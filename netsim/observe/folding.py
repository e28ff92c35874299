"""Lines folded at a terminal's width. Pure. Colours are ANSI sequences (ECMA-48, SGR), which take no column."""

import re
from unicodedata import combining, east_asian_width

HANGING = 2  # columns that what is left of a line stands farther in than its text, which tells it from the next line
_LEAST_COLUMNS = 20  # a text in fewer is easier to read as the terminal itself breaks it
_RESET = "\x1b[0m"
_TOKEN = re.compile(r"\x1b\[[0-9;]*m|.", re.DOTALL)


def fold(line: str, width: int | None, lead: str) -> list[str]:
    """``line`` in pieces of at most ``width`` columns, of which all but the first begin with ``lead``.

    It is broken at a blank, which goes, or where there is none, hard; in the first piece only after as many columns as
    ``lead`` has. A colour ends with its piece and begins again behind the lead. Whole: with width None, and where the
    lead would leave less than 20 columns to the text.
    """
    if width is None or width - len(lead) < _LEAST_COLUMNS:
        return [line]
    pieces: list[str] = []
    rest = _TOKEN.findall(line)
    while True:
        end = _find_end(rest, width - (len(lead) if pieces else 0), 0 if pieces else len(lead))
        piece, rest = rest[:end], rest[end:]
        before = lead if pieces else ""
        if not rest:
            return [*pieces, before + "".join(piece)]
        style = _open_style(piece)
        pieces.append(before + "".join(piece).rstrip(" ") + (_RESET if style else ""))
        while rest and rest[0] == " ":
            rest = rest[1:]
        rest = [*style, *rest]


def _find_end(tokens: list[str], width: int, first: int) -> int:
    """How many of ``tokens`` go into ``width`` columns: to the last blank behind ``first`` columns if there is one."""
    used, blank = 0, 0
    for number, token in enumerate(tokens):
        if token == " " and used > first:
            blank = number
        used += _columns(token)
        if used > width:
            return blank or number
    return len(tokens)


def _open_style(tokens: list[str]) -> list[str]:
    """The sequences that still hold at the end."""
    style: list[str] = []
    for token in tokens:
        if token == _RESET:
            style = []
        elif len(token) > 1:
            style.append(token)
    return style


def _columns(token: str) -> int:
    if len(token) > 1 or combining(token):
        return 0
    return 2 if east_asian_width(token) in "WF" else 1
