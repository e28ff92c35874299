"""Tables, ages and descriptions: the pure half of what is printed."""

from datetime import UTC, datetime, timedelta

import pytest

from netsim.cli.describe_parts import age, events_text, field_lines, join_map, sub_table
from netsim.cli.get import qualified_name, table_cells
from netsim.cli.output import render_table
from netsim.model.kinds import DEPLOYMENT

COLUMNS = [
    {"name": "Name", "priority": 0},
    {"name": "Ready", "priority": 0},
    {"name": "IP", "priority": 1},
]
ROWS = [
    {"cells": ["web-0", "1/1", "10.244.0.2"], "object": {"metadata": {"name": "web-0", "namespace": "shop"}}},
    {"cells": ["web-1", 0, None], "object": {"metadata": {"name": "web-1", "namespace": "shop"}}},
]


def test_columns_line_up_and_lines_do_not_end_in_spaces() -> None:
    text = render_table(("NAME", "READY"), [("a-long-name", "1/1"), ("b", "")])
    assert text == "NAME          READY\na-long-name   1/1\nb"


def test_columns_of_lower_priority_are_for_wide() -> None:
    assert table_cells(COLUMNS, ROWS, False) == (["NAME", "READY"], [["web-0", "1/1"], ["web-1", "0"]])
    header, cells = table_cells(COLUMNS, ROWS, True)
    assert header == ["NAME", "READY", "IP"]
    assert cells[1] == ["web-1", "0", "<none>"]


def test_namespaces_and_kinds_come_first_where_several_are_shown() -> None:
    header, cells = table_cells(COLUMNS, ROWS, False, namespaces=True, prefix=DEPLOYMENT)
    assert header == ["NAMESPACE", "NAME", "READY"]
    assert cells[0] == ["shop", "deployment.apps/web-0", "1/1"]


def test_qualified_names_are_kubectls() -> None:
    assert qualified_name("v1", "Pod", "a") == "pod/a"
    assert qualified_name("apps/v1", "Deployment", "a") == "deployment.apps/a"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (150, "2m30s"), (300, "5m"), (3600, "60m"), (7200, "2h"), (172800, "2d")],
)
def test_ages_are_kubectls(seconds: int, text: str) -> None:
    then = datetime.now(UTC) - timedelta(seconds=seconds, milliseconds=200)
    assert age(then.isoformat().replace("+00:00", "Z")) == text


def test_an_unknown_age() -> None:
    assert age(None) == age("yesterday") == "<unknown>"


def test_fields_without_a_value_are_left_out() -> None:
    assert field_lines([("Name", "web"), ("Message", ""), ("Zero", 0)]) == [
        "Name:             web",
        "Zero:             0",
    ]


def test_maps_and_empty_tables() -> None:
    assert join_map({"a": "1", "b": "2"}) == "a=1, b=2"
    assert join_map(None) == "<none>"
    assert sub_table("Pods", ("NAME",), []) == ["Pods:             <none>"]


def test_events_are_told_in_order() -> None:
    now = datetime.now(UTC)
    stamps = [(now - timedelta(seconds=s)).isoformat().replace("+00:00", "Z") for s in (10, 60)]
    events = [
        {"type": "Normal", "reason": "Started", "message": "later", "lastTimestamp": stamps[0], "metadata": {}},
        {
            "type": "Warning",
            "reason": "Failed",
            "message": "x\n",
            "lastTimestamp": stamps[1],
            "count": 3,
            "metadata": {},
        },
    ]
    lines = events_text(events)
    assert [line.split()[1] for line in lines[2:]] == ["Failed", "Started"]
    assert "(x3)" in lines[2]
