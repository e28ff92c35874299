"""The pieces of descriptions."""

import pytest

from netsim.cli.describe_parts import text_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", ["  key: plain"]),
        ("", ["  key:"]),
        ("one\n", ["  key:", "    one"]),
        ("first\nsecond: x\n\n  third\n", ["  key:", "    first", "    second: x", "", "      third"]),
        ("a \nb\tc\n\n", ["  key:", "    a ", "    b\tc", ""]),
        ("two\nwithout end", ["  key:", "    two", "    without end"]),
        ("\x1b[2Jgone\r", ["  key: \\x1b[2Jgone\\r"]),
    ],
)
def test_a_text_is_shown_as_it_is(text: str, expected: list[str]) -> None:
    assert text_lines("key", text, indent=2) == expected
