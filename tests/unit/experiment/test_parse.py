"""The file of an experiment: what it means for each combination, and what is wrong with it, with file and line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from netsim.experiment.files import choose_combinations, find_file, list_shipped, read_experiment
from netsim.experiment.kinds import STEP_KINDS
from netsim.model.errors import InputError, UsageError
from tests.unit.experiment.example import TEXT, make_experiment

Change = Callable[[str], str]


def test_every_combination_has_its_own_values() -> None:
    experiment = make_experiment()
    assert [one.label for one in experiment.combinations] == [
        "size=1 proxyMode=iptables",
        "size=1 proxyMode=nftables",
        "size=10 proxyMode=iptables",
        "size=10 proxyMode=nftables",
    ]
    last = experiment.combinations[-1]
    assert last.topology == {"nodes": 2, "proxyMode": "nftables"}
    assert [item.name for item in last.manifests] == ["pod-10"]
    assert last.steps[0].arguments == {"from": "host/external", "to": "pod/pod-10:80"}
    assert [one.key for one in last.steps[0].expect] == ["verdict", "source"]
    assert [one.key for one in experiment.combinations[0].steps[0].expect] == ["verdict"]


def test_steps_of_other_combinations_are_left_out() -> None:
    names = [[step.name for step in one.steps] for one in make_experiment().combinations]
    assert names == [["probe it", "how fast", "only there"], ["probe it", "how fast"]] * 2


def test_experiments_with_figures_are_told_apart() -> None:
    assert make_experiment().measuring
    cut = TEXT.index("- name: how fast")
    assert not make_experiment(TEXT[:cut]).measuring


def test_only_some_combinations() -> None:
    chosen = choose_combinations(make_experiment(), {"size": ["10"], "proxyMode": ["nftables", "iptables"]})
    assert [one.label for one in chosen.combinations] == ["size=10 proxyMode=iptables", "size=10 proxyMode=nftables"]
    assert chosen.matrix["size"] == [10]


@pytest.mark.parametrize(
    ("only", "words"),
    [({"mode": ["x"]}, "--only mode: the matrix has no such key"), ({"size": ["2"]}, "--only size=2: no such value")],
)
def test_only_what_there_is(only: dict[str, list[str]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_combinations(make_experiment(), only)


@pytest.mark.parametrize("path", list_shipped(), ids=lambda path: path.stem)
def test_shipped_experiments_are_right_and_found_by_name(path: object) -> None:
    found = find_file(getattr(path, "stem", ""))
    experiment = read_experiment(found)
    assert experiment.name == found.stem
    assert experiment.about
    assert list(experiment.matrix["proxyMode"]) == ["iptables", "nftables", "ipvs"]


def test_three_are_shipped() -> None:
    assert [path.stem for path in list_shipped()] == ["client-address", "four-kinds", "service-scale"]


def test_a_name_that_is_no_file() -> None:
    with pytest.raises(UsageError, match="no experiment of that name") as caught:
        find_file("five-kinds")
    assert "four-kinds" in caught.value.hint


def put(old: str, new: str) -> Change:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


WRONG: list[tuple[Change, int, str]] = [
    (put("name: example\n", ""), 1, "name: missing"),
    (put("name: example", "name: Ex Ample"), 1, "name: "),
    (put("title:", "titel:"), 2, 'unknown field "titel"'),
    (put("size: [1, 10]", "size: 1"), 6, "matrix.size: must be a list of values"),
    (put("size: [1, 10]", "size: [1, 1]"), 6, "matrix.size: a value is there twice"),
    (put("size: [1, 10]", "size: [[1], 10]"), 6, "matrix.size: its values must be"),
    (put("size: [1, 10]", "size: [1, 10]\n  colour: [red]"), 7, "matrix.colour: changes nothing"),
    (put("size: [1, 10]", "name: [a, b]"), 6, "matrix.name: can't be in the matrix"),
    (put("iptables, nftables]", "iptables, nftables, nftable]"), 8, 'topology: proxyMode: "nftable" is not one of'),
    (put("{nodes: 2}", "{nodes: 2, proxyMode: iptables}"), 8, "topology.proxyMode: is in the matrix too"),
    (put("{nodes: 2}", "{node: 2}"), 8, 'unknown field "node"'),
    (put("pod-${size}\"}", "pod-${sice}\"}"), 10, "the matrix has no such key"),
    (put("kind: Pod", "kind: Frog"), 10, 'unknown kind "Frog"'),
    (put("- apiVersion: v1", "- nope.yaml\n- apiVersion: v1"), 10, "nope.yaml: cannot read"),
    (put("probe: {", "prob: {"), 16, 'unknown field "steps[0].prob"'),
    (put("  probe: {", "  wait: 1s\n  probe: {"), 15, "must say one thing to do"),
    (put("from: host/external", "from: external"), 15, "probe.from"),
    (put("from: host/external, ", ""), 16, '"from" is missing'),
    (put("to: \"pod", "too: 1, to: \"pod"), 16, 'unknown field "steps[0].probe.too"'),
    (put("count: 5", "count: 0"), 20, "first-packet.count: must be a whole number"),
    (put("verdict: delivered", "verdikt: delivered"), 18, 'unknown field "steps[0].expect[0].verdikt"'),
    (put("verdict: delivered", "verdict: deliverd"), 18, '"deliverd" is no verdict'),
    (put("proxyMode: nftables}", "proxyMode: ipvs}"), 19, "'ipvs' is not among the matrix's values"),
    (put("proxyMode: nftables}", "mode: ipvs}"), 19, "the matrix has no such key"),
    (put("errors: 0", "errors: none"), 22, "expect.errors: must be a number"),
    (put("{atMost: 5}", "{most: 5}"), 22, '"most" can\'t be asked of a number'),
    (put("name: how fast", "name: probe it"), 20, 'there is another step "probe it"'),
    (put("rules: svc/web", "fault: {kind: loss, at: node/node-1}"), 23, 'fault: loss: "percent" is missing'),
    (put("rules: svc/web", "undo: nothing"), 23, 'undo: no step "nothing" before it makes a fault'),
    (put("rules: svc/web", "wait: soon"), 23, "wait: wait: 'soon' is no duration"),
    (put("rules: svc/web", "delete: {kind: Frog, name: x}"), 23, 'delete: unknown kind "Frog"'),
    (put("steps:\n", "steps: []\nabout2:\n"), 31, "unknown field"),
    (put("size: [1, 10]", "size: [1, 10"), 7, "broken YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "line", "words"), WRONG, ids=[words for _, _, words in WRONG])
def test_what_is_wrong_is_told_with_its_line(change: Change, line: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        make_experiment(change(TEXT))
    assert words in caught.value.message
    file, _, at = caught.value.where.rpartition(":")
    assert file.startswith("example.yaml"), caught.value.where
    assert abs(int(at) - line) <= 1 or "about2" in change(TEXT), f"line {at}, not {line}: {caught.value.message}"


def test_dollar_dollar_stands_for_itself() -> None:
    text = TEXT.replace("image: nginx", 'image: nginx, command: [sh, -c, "echo $${HOME} $HOME"]')
    pod = make_experiment(text).combinations[0].manifests[0].object
    assert pod["spec"]["containers"][0]["command"][2] == "echo ${HOME} $HOME"


def test_without_a_matrix_there_is_one_combination() -> None:
    experiment = make_experiment("name: one\nsteps:\n- wait: barrier\n")
    assert [(one.label, [step.kind for step in one.steps]) for one in experiment.combinations] == [("-", ["wait"])]


@pytest.mark.parametrize(("matrix", "hint"), [("", ""), ("matrix: {nodes: [0, 1]}\n", "of nodes=0")])
def test_a_wrong_topology_is_told_with_its_combination_where_there_are_several(matrix: str, hint: str) -> None:
    topology = "" if matrix else "topology: {nodes: 0}\n"
    with pytest.raises(InputError, match="nodes: 0 is not a positive number") as refused:
        make_experiment(f"name: one\n{matrix}{topology}steps:\n- wait: barrier\n")
    assert refused.value.hint == hint


def test_the_docs_name_every_kind_of_step_with_its_arguments_and_facts() -> None:
    lines = (Path(__file__).parents[3] / "docs/experiments.md").read_text().splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| `")]
    told = {kind: row for row in rows for kind in re.findall(r"`([a-z-]+)`", row[0]) if len(row) == 3}
    assert set(STEP_KINDS) <= set(told)
    for kind, described in STEP_KINDS.items():
        arguments, facts = told[kind][1], told[kind][2]
        for name in described.optional:
            if kind not in ("delete", "patch", "scale", "apply", "services"):  # namespace and timeout: below the table
                assert f"`{name}`" in arguments, (kind, name)
        if not facts.strip().startswith("as "):
            for name in described.facts:
                assert f"`{name}`" in facts, (kind, name)
