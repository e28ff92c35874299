"""Lines at a terminal's width: where they break, what stands before the rest, and what colours cost."""

import re

import pytest

from netsim.observe.folding import fold

LEAD = "    "


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("", [""]),
        ("just as wide as it can be:34567", ["just as wide as it can be:34567"]),
        ("one column more than it can be:4", ["one column more than it can", "    be:4"]),
        ("a blank is what it breaks at:3456 it goes", ["a blank is what it breaks", "    at:3456 it goes"]),
        ("a blank just behind the last one goes", ["a blank just behind the last", "    one goes"]),
        ("several blanks before a  {  brace  }", ["several blanks before a  {", "    brace  }"]),
        ("0123456789" * 6, ["0123456789012345678901234567890", "    123456789012345678901234567", "    89"]),
        (
            "in-a-long-word-it-breaks-anyhow-and then at blanks",
            ["in-a-long-word-it-breaks-anyhow", "    -and then at blanks"],
        ),
        ("  x y-blank-of-the-label-is-no-place", ["  x y-blank-of-the-label-is-no-", "    place"]),
        ("umlauts äöü and 東京 are as wide as seen", ["umlauts äöü and 東京 are as", "    wide as seen"]),
    ],
)
def test_lines_break_at_blanks_or_hard(line: str, pieces: list[str]) -> None:
    assert fold(line, 31, LEAD) == pieces


def test_without_a_width_or_room_a_line_is_whole() -> None:
    line = "word " * 50
    assert fold(line, None, LEAD) == [line]
    assert fold(line, 23, LEAD) == [line]
    assert len(fold(line, 24, LEAD)) > 1


def test_colours_take_no_column_and_do_not_run_into_what_stands_before_the_rest() -> None:
    line = "a \x1b[31;1mred word and one more of them\x1b[0m end"
    assert fold(line, 25, LEAD) == [
        "a \x1b[31;1mred word and one more\x1b[0m",
        "    \x1b[31;1mof them\x1b[0m end",
    ]
    plain = fold(re.sub("\x1b[^m]*m", "", line), 25, LEAD)
    assert [re.sub("\x1b[^m]*m", "", piece) for piece in fold(line, 25, LEAD)] == plain


@pytest.mark.parametrize("width", range(24, 90))
def test_nothing_is_lost_and_no_piece_is_too_wide(width: int) -> None:
    line = (
        '-A KUBE-SVC -d 10.96.1.3/32 -m comment --comment "default/web  cluster IP" ' + "x" * 40 + " -j KUBE-MARK-MASQ"
    )
    pieces = fold(line, width, LEAD)
    assert max(map(len, pieces)) <= width
    assert "".join(pieces).replace(" ", "") == line.replace(" ", "")
    assert all(piece.startswith(LEAD) and piece[4] != " " for piece in pieces[1:])
