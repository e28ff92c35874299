"""The protocol: variables, standard input, error objects. No kernel: every case ends before something would be done."""

import io
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from cni.main import run
from cni.types import SUPPORTED_VERSIONS

CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "bridge"}
VARIABLES = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/no/such/netns",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}


def call(stdin: bytes | dict[str, Any] | None = None, **variables: str | None) -> tuple[int, str, str]:
    environment = {k: v for k, v in {**VARIABLES, **variables}.items() if v is not None}
    data = stdin if isinstance(stdin, bytes) else json.dumps(CONFIG if stdin is None else stdin).encode()
    reader = os.memfd_create("stdin")
    os.write(reader, data)
    os.lseek(reader, 0, os.SEEK_SET)
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        status = run(environment, reader, stdout, stderr)
    finally:
        os.close(reader)
    return status, stdout.getvalue(), stderr.getvalue()


def failure(stdin: bytes | dict[str, Any] | None = None, **variables: str | None) -> dict[str, Any]:
    status, out, _ = call(stdin, **variables)
    assert status == 1
    error: dict[str, Any] = json.loads(out)
    return error


def test_without_command_it_says_what_it_is() -> None:
    status, out, err = call(CNI_COMMAND=None)
    assert (status, out) == (0, "")
    assert "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in err


@pytest.mark.parametrize("command", ["add", "REMOVE", " ADD"])
def test_unknown_commands(command: str) -> None:
    error = failure(CNI_COMMAND=command)
    assert (error["code"], error["msg"]) == (4, f"unknown CNI_COMMAND: {command}")


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME"),
        ("GC", "CNI_PATH"),
    ],
)
def test_all_missing_variables_are_named_at_once(command: str, missing: str) -> None:
    nothing = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"))
    error = failure(**{**nothing, "CNI_COMMAND": command})
    assert (error["code"], error["msg"]) == (4, f"required env variables [{missing}] missing")


def test_an_empty_variable_is_a_missing_one() -> None:
    assert failure(CNI_IFNAME="")["msg"] == "required env variables [CNI_IFNAME] missing"


@pytest.mark.parametrize("container_id", ["../x", "a/b", "_a", "-a", "a b", "ä", "a\n"])
def test_bad_container_ids(container_id: str) -> None:
    error = failure(CNI_CONTAINERID=container_id)
    assert error["code"] == 4
    assert "CNI_CONTAINERID" in error["msg"]


@pytest.mark.parametrize("ifname", ["sixteen-letters!", ".", "..", "a/b", "a:b", "a b", "a\tb", "ääääääää"])
def test_bad_interface_names(ifname: str) -> None:
    error = failure(CNI_IFNAME=ifname)
    assert error["code"] == 4
    assert "CNI_IFNAME" in error["msg"]


def test_fifteen_bytes_are_a_good_interface_name() -> None:
    assert failure(CNI_IFNAME="fifteen-letters")["code"] == 8  # got as far as the namespace


@pytest.mark.parametrize("name", [None, "", "../x", "a b", 5])
def test_bad_network_names(name: object) -> None:
    assert failure({"cniVersion": "1.1.0", "name": name})["code"] == 7


def test_a_bad_namespace_is_named() -> None:
    error = failure()
    assert error["code"] == 8
    assert "/no/such/netns" in error["msg"]
    assert error["cniVersion"] == "1.1.0"


@pytest.mark.parametrize("stdin", [b"", b"{", b"\xff\xfe", b"[]", b"5", b"null", b'"x"', b"[" * 100_000])
def test_standard_input_that_is_no_object_is_a_decoding_failure(stdin: bytes) -> None:
    assert failure(stdin)["code"] == 6


@pytest.mark.parametrize("version", ["0.0.1", "1.2.0", "1", "x"])
def test_unsupported_versions(version: str) -> None:
    error = failure({**CONFIG, "cniVersion": version})
    assert (error["code"], error["msg"]) == (1, "incompatible CNI versions")
    assert version in error["details"]
    assert "1.1.0" in error["details"]


def test_a_version_of_the_wrong_type_is_a_decoding_failure() -> None:
    assert failure({**CONFIG, "cniVersion": 1})["code"] == 6


@pytest.mark.parametrize(
    ("command", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0"), ("STATUS", "0.2.0")]
)
def test_operations_that_the_version_does_not_know(command: str, version: str) -> None:
    error = failure({**CONFIG, "cniVersion": version}, CNI_COMMAND=command)
    assert (error["code"], error["msg"]) == (1, f"config version does not allow {command}")
    assert error["cniVersion"] == version


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_errors_carry_the_configurations_version(version: str) -> None:
    assert failure({**CONFIG, "cniVersion": version})["cniVersion"] == version


def test_version_echoes_and_lists() -> None:
    status, out, _ = call({"cniVersion": "0.4.0"}, CNI_COMMAND="VERSION", CNI_CONTAINERID=None)
    assert status == 0
    assert json.loads(out) == {"cniVersion": "0.4.0", "supportedVersions": list(SUPPORTED_VERSIONS)}


@pytest.mark.parametrize("stdin", [b"", b"nonsense", b"[]", b'{"cniVersion": 5}', b'{"cniVersion": "7.0.0"}'])
def test_version_does_not_depend_on_standard_input(stdin: bytes) -> None:
    status, out, _ = call(stdin, CNI_COMMAND="VERSION")
    assert (status, json.loads(out)["cniVersion"]) == (0, "1.1.0")


def test_version_does_not_wait_for_standard_input() -> None:
    reader, writer = os.pipe()
    stdout = io.StringIO()
    try:
        assert run({"CNI_COMMAND": "VERSION"}, reader, stdout, io.StringIO()) == 0
    finally:
        os.close(reader)
        os.close(writer)
    assert json.loads(stdout.getvalue())["cniVersion"] == "1.1.0"


def test_standard_input_that_cannot_be_read_is_an_io_failure(tmp_path: Any) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    stdout = io.StringIO()
    try:
        assert run(VARIABLES, fd, stdout, io.StringIO()) == 1
    finally:
        os.close(fd)
    assert json.loads(stdout.getvalue())["code"] == 5


def test_check_needs_the_previous_result() -> None:
    error = failure(CNI_COMMAND="CHECK")
    assert (error["code"], error["msg"]) == (7, "required prevResult missing")


def test_the_program_imports_nothing_slow() -> None:
    slow = {"asyncio", "dataclasses", "click", "pyroute2", "scapy", "logging", "subprocess", "ctypes.util", "inspect"}
    code = "import sys, cni.main, cni.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert slow.isdisjoint(done.stdout.split())
