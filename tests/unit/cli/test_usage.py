"""The command line without a cluster: help, wrong usage, exit statuses, and what a failure looks like."""

import re
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem

from netsim.cli import errors
from netsim.cli.completion import WholeWords
from netsim.cli.main import cli, run
from netsim.model.errors import ApiError, KernelError

ALL = sorted(cli.commands_at)  # type: ignore[attr-defined]  # a NetsimGroup, which click's decorator hides


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NETSIM_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("NETSIM_CLUSTER", raising=False)
    monkeypatch.delenv("NETSIM_DEBUG", raising=False)
    return tmp_path


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ALL:
        assert f"\n  {name} " in text
    assert run([]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("line", ["--help", "fault --help", "experiment --help"])
def test_what_a_command_does_is_told_to_the_end_of_the_sentence(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(line.split()) == 0
    text = capsys.readouterr().out.partition("Commands:\n")[2].partition("\nExamples:")[0]
    assert "..." not in text
    told = re.findall(r"^  [a-z-]+ +(.*(?:\n {4,}.*)*)", text, flags=re.MULTILINE)
    assert len(told) == sum(bool(re.match("  [a-z]", one)) for one in text.splitlines())
    assert all(one.endswith(".") for one in told)


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "-h"]) == 0
    text = capsys.readouterr().out
    assert "Examples:\n" in text
    assert text.partition("Examples:\n")[2].strip()


@pytest.mark.parametrize("name", ["fault", "experiment"])
def test_a_group_alone_shows_its_help_as_wrong_usage(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "-h"]) == 0
    text = capsys.readouterr().out
    assert run([name]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == text


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        ("gte pods", 'there is no command "gte"', "did you mean: netsim get"),
        ("frobnicate", 'there is no command "frobnicate"', "netsim --help lists the commands"),
        ("help", 'there is no command "help"', "netsim --help lists the commands"),
        ("completion", "missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish", "netsim completion --help"),
        ("capture", "a capture needs a place", "pod/NAME"),
        ("capture tcp port 80", 'a capture needs a place, and "tcp" is none', "a filter stands after them"),
        ("get", "missing argument 'KIND'", "netsim get --help"),
        ("get frogs", 'unknown kind "frogs"', "known kinds: namespaces, nodes, pods"),
        ("get pods -o xml", "'xml' is not one of", "netsim get --help"),
        ("get pod/a b", "pod/a and another name, without its kind", "netsim get pod a b"),
        ("get pod/a svc/b c", "pod/a and another name, without its kind", "netsim get pod/a svc/b"),
        ("get pod/a frogs/b", 'unknown kind "frogs"', "known kinds"),
        ("get pod/a svc/", '"" is no name of an object', "letters, digits"),
        ("get pod/a svc/b -w", "--watch follows one kind, or one object", "--watch"),
        ("get pods a -l app=b", "a NAME and a selector together", "give one of them"),
        ("get pods a -A", "a NAME and --all-namespaces together", "-n NS"),
        ("get pods,services -w", "--watch follows one kind", "--watch"),
        ("up --nodes 0", "0 is not in the range", "netsim up --help"),
        ("up Bad_Name", 'name: "Bad_Name" must be a DNS label', "lower-case letters"),
        ("up --nodes 100000", "nodes: 100000 are more than 1000", "ask for 1000 or fewer"),
        ("up --nodes 300", "podCIDR: 10.244.0.0/16 has room for 256 nodes", "a larger podCIDR"),
        ("up --nodes 300 --config /dev/null", "podCIDR: 10.244.0.0/16 has room for 256 nodes", "a larger podCIDR"),
        ("up --proxy-mode magic", "'--proxy-mode': 'magic' is not", "netsim up --help"),
        ("up --frob", "no such option", "netsim up --help"),
        ("down a --all", "NAME and --all together", "netsim down --all"),
        ("apply", "no manifests", "netsim apply -f FILE"),
        ("apply -f - -f -", "only one standard input", ""),
        ("delete", "nothing to delete", "netsim delete KIND NAME"),
        ("delete pod", "which pod?", "netsim delete pod NAME"),
        ("delete pod a -f b", "-f and KIND together", "netsim delete -f FILE"),
        ("delete pod/", "which pod?", "netsim delete pod NAME"),
        ("delete pod a b/c", '"b/c" is no name of an object', "letters, digits"),
        ("delete pod/a frogs/b", 'unknown kind "frogs"', "known kinds"),
        ("describe pod", "which pod?", "netsim describe pod NAME"),
        ("get pods a?watch=true", "is no name of an object", "letters, digits"),
        ("logs a%2fb", "is no name of an object", "letters, digits"),
        ("logs a/b/c", '"a/b/c" is no pod', "NAMESPACE/NAME"),
        ("exec pod/a", "missing argument 'COMMAND...'", "netsim exec --help"),
        ("exec a -- ls", '"a" is no place', "pod/[NAMESPACE/]NAME"),
        ("shell nodes/a", '"nodes/a" is no place', "node/NAME"),
        ("completion tcsh", "'tcsh' is not one of", "netsim completion --help"),
    ],
)
def test_wrong_usage_is_status_2_with_a_next_step(
    line: str, error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    if hint:
        assert lines[1].startswith("next: ")
        assert hint in lines[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["up", ""],
        ["down", ""],
        ["status", ""],
        ["kubeconfig", ""],
        ["delete", "pods", ""],
        ["get", "pods", ""],
        ["describe", "pod", ""],
        ["delete", "-f", ""],
        ["apply", "-f", ""],
    ],
)
def test_an_empty_word_is_not_everything(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What ``netsim delete pods "$NAME"`` says without NAME."""
    assert run(arguments) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("next: ")


def test_a_wrong_topology_file_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is wrong with the command line."""
    path = tmp_path / "topology.yaml"
    path.write_text("nodes: 1001\n")
    assert run(["up", "lab", "--config", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: nodes: 1001 are more than")


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        (b"nodes: [", ":2: broken YAML: ", "the indentation and the quotes"),
        (b"nodes: 3\n\tname: a\n", ":2: broken YAML: ", "indent with spaces"),
        (b'nodes: 3\nname: "a\x01b"\n', ":2: character 0x01", ""),
        (b"nodes: 3\nnodes: 4\n", ':2: the key "nodes" is there twice, first on line 1', ""),
        (b"nodes: 3\n---\nnodes: 4\n", ":3: a topology is one YAML document", ""),
        (b"hello\n", ": the topology must be a mapping", "docs/configuration.md"),
        (b"nodes: 3\n# \xf6\n", ":2: byte 0xf6 is not UTF-8", "save the file as UTF-8"),
    ],
)
def test_a_topology_is_read_as_manifests_are(
    text: bytes, error: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "topology.yaml"
    path.write_bytes(text)
    assert run(["up", "lab", "--config", str(path)]) == 1
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {path}{error}")
    assert hint in "".join(rest)


@pytest.mark.parametrize("line", ["status", "get pods", "exec pod/a -- ls", "apply -f web.yaml", "kubeconfig", "down"])
def test_without_a_cluster_status_1_says_so(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("web.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    assert run(line.split()) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("next: ")
    assert "netsim up" in lines[1]


def test_manifests_are_read_before_a_cluster_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "web.yaml"
    path.write_text("apiVersion: v1\nkind: Frog\nmetadata: {name: a}\n")
    assert run(["apply", "-f", str(path)]) == 1
    assert f'error: {path}:2: unknown kind "Frog"' in capsys.readouterr().err


def test_list_without_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0
    assert "netsim up starts one" in capsys.readouterr().err
    assert run(["list", "-o", "json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert run(["down", "--all"]) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_NETSIM_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "netsim trace pod/client svc/",
        "netsim trace pod/client svc/web:",
        "netsim trace pod/client fd00::1",
        "netsim rules ",
        "netsim diff a b --service ",
        "netsim fault undo ",
    ],
)
def test_completion_is_silent_without_a_cluster(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_NETSIM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert run([]) == 0
    output = capsys.readouterr()
    assert (output.out.strip(), output.err) == ("", "")


@pytest.mark.parametrize(
    ("parts", "words", "meant", "printed"),
    [
        (["rules", "svc/we"], ["rules", "svc/we"], "svc/web", "svc/web"),
        (["trace", "pod/a", "svc/web", ":", "h"], ["trace", "pod/a", "svc/web:h"], "svc/web:http", "http"),
        (["trace", "pod/a", "svc/web", ":"], ["trace", "pod/a", "svc/web:"], "svc/web:http", "http"),
        (["trace", "pod/a", "svc/web:h"], ["trace", "pod/a", "svc/web:h"], "svc/web:http", "svc/web:http"),
        (["trace", "[fd00", "::", "1]", ":", "80", "--a"], ["trace", "[fd00::1]:80", "--a"], "--all", "--all"),
        (["--cluster", "=", "lab", "rules", ""], ["--cluster=lab", "rules", ""], "svc/web", "svc/web"),
        (["exec", "", "po"], ["exec", "", "po"], "pod/a", "pod/a"),
    ],
)
def test_what_bash_took_apart_is_one_word(
    parts: list[str], words: list[str], meant: str, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``printed``: what bash is to put in place of the last part."""
    monkeypatch.setenv("COMP_WORDS", "\n".join(["netsim", *(part or "''" for part in parts)]))
    monkeypatch.setenv("COMP_CWORD", str(len(parts)))
    shell = WholeWords(cli, {}, "netsim", "_NETSIM_COMPLETE")
    assert shell.get_completion_args() == (words[:-1], words[-1])
    assert shell.format_completion(CompletionItem(meant)) == f"plain,{printed}"


def test_a_kernel_error_has_its_place_and_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    error = KernelError("cannot make a link: File exists", where="node-1", hint="netsim down")
    assert errors.report(error) == 1
    assert capsys.readouterr().err == "error: node-1: cannot make a link: File exists\nnext: netsim down\n"


def test_an_error_without_a_hint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.report(ApiError(404, "NotFound", 'pods "a" not found')) == 1
    assert capsys.readouterr().err == 'error: pods "a" not found\n'


def test_a_fault_of_ours_is_one_line_and_a_log(no_cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.report(ZeroDivisionError("division by zero")) == 1
    output = capsys.readouterr().err
    assert "netsim itself failed: ZeroDivisionError: division by zero" in output
    assert len(output.splitlines()) == 2
    assert str(no_cluster / "error.log") in output
    assert "ZeroDivisionError" in (no_cluster / "error.log").read_text()


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NETSIM_DEBUG", "1")
    assert errors.report(ZeroDivisionError("division by zero")) == 1
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), 130), (click.Abort(), 130), (BrokenPipeError(), 141), (click.exceptions.Exit(3), 3)],
)
def test_interruptions_have_their_own_status(error: BaseException, status: int) -> None:
    assert errors.report(error) == status


def test_the_shipped_experiments_are_listed_as_the_docs_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["experiment", "list"]) == 0
    docs = (Path(__file__).parents[3] / "docs/experiments.md").read_text(encoding="utf-8")
    assert f"$ netsim experiment list\n{capsys.readouterr().out}$ netsim experiment run" in docs
