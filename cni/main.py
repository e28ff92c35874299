"""``netsim-cni``, the program: variables and stdin in, one JSON document on stdout out.

What it imports decides what an ADD costs: asyncio, dataclasses, click or pyroute2 would each cost more than the ADD
itself, and the plugin comes in only after the variables have been found in order.
Source: containernetworking/cni SPEC.md 1.1.0, sections 2 and 4; pkg/skel/skel.go.
"""

import gc
import os
import select
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, TextIO

from cni.types import (
    DECODING_FAILURE,
    INTERNAL,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    NEWEST_VERSION,
    SUPPORTED_VERSIONS,
    CniError,
    Request,
)

_VERSION_WAIT_MS = 100
_ATTACHMENT = frozenset(("ADD", "CHECK", "DEL"))
_ALL = _ATTACHMENT | {"GC", "STATUS", "VERSION"}


class Variable(NamedTuple):
    """An environment variable and the operations that cannot do without it."""

    name: str
    required: frozenset[str]


# The reference also requires CNI_PATH for all but VERSION. The spec calls it optional where nothing is delegated.
VARIABLES = (
    Variable("CNI_CONTAINERID", _ATTACHMENT),
    Variable("CNI_NETNS", frozenset(("ADD", "CHECK"))),
    Variable("CNI_IFNAME", _ATTACHMENT),
    Variable("CNI_PATH", frozenset(("GC",))),
)


def run(environment: Mapping[str, str], stdin: int, stdout: TextIO, stderr: TextIO) -> int:
    """One operation; the exit status. ``stdin`` is a descriptor, read to its end except for VERSION."""
    command = environment.get("CNI_COMMAND", "")
    if not command:
        versions = ", ".join(SUPPORTED_VERSIONS)
        stderr.write(f"CNI plugin netsim-cni (bridge)\nCNI protocol versions supported: {versions}\n")
        return 0
    config: Mapping[str, Any] = {}
    try:
        check_environment(command, environment)
        if command == "VERSION":
            _print(stdout, _version(stdin))
            return 0
        config = _read_config(stdin)
        _execute(command, environment, config, stdout)
        return 0
    except CniError as error:
        failure = error
    except Exception as error:  # whatever it is, a runtime has to get an error object and not a traceback
        failure = CniError(INTERNAL, f"internal error: {error!r}", _traceback(error))
    for note in getattr(failure, "__notes__", ()):
        failure.details = f"{failure.details}; {note}" if failure.details else note
    version = config.get("cniVersion") if isinstance(config, Mapping) else None
    _print(stdout, failure.to_json(version if version in SUPPORTED_VERSIONS else NEWEST_VERSION))
    return 1


def check_environment(command: str, environment: Mapping[str, str]) -> None:
    """CniError 4 for an unknown operation, or naming every variable that is missing."""
    if command not in _ALL:
        raise CniError(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
    missing = [v.name for v in VARIABLES if command in v.required and not environment.get(v.name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")


def _execute(command: str, environment: Mapping[str, str], config: Mapping[str, Any], stdout: TextIO) -> None:
    from cni.config import parse_version
    from cni.plugin import Plugin

    version = parse_version(config)
    request = Request(
        command=command,
        container_id=environment.get("CNI_CONTAINERID", ""),
        netns=environment.get("CNI_NETNS", ""),
        ifname=environment.get("CNI_IFNAME", ""),
        args=environment.get("CNI_ARGS", ""),
        config=config,
        netns_override=environment.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true"),
    )
    plugin = Plugin()
    if command == "ADD":
        result = plugin.add(request)
        try:
            body = result.render(version)
        except CniError:
            plugin.delete(request)  # it cannot be told in this version (0.2.0 without an address), so it must not be
            raise
        _print(stdout, body)
        return
    {"DEL": plugin.delete, "CHECK": plugin.check, "GC": plugin.gc, "STATUS": plugin.status}[command](request)


def _read_config(stdin: int) -> Mapping[str, Any]:
    import json

    try:
        with open(stdin, "rb", closefd=False) as file:
            data = file.read()
    except OSError as error:
        raise CniError(IO_FAILURE, f"error reading from stdin: {error.strerror}") from None
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CniError(DECODING_FAILURE, f"error decoding the network configuration: {error}") from None
    if not isinstance(config, dict):
        raise CniError(DECODING_FAILURE, f"the network configuration is no object but {type(config).__name__}")
    return config


def _version(stdin: int) -> dict[str, Any]:
    """Echoes the cniVersion on stdin, as the spec says; where nothing comes, our newest."""
    import json

    version = NEWEST_VERSION
    poll = select.poll()
    poll.register(stdin, select.POLLIN)
    try:
        if poll.poll(_VERSION_WAIT_MS):
            asked = json.loads(os.read(stdin, 65536)).get("cniVersion")
            version = asked if asked in SUPPORTED_VERSIONS else version
    except (OSError, ValueError, AttributeError, RecursionError):
        pass  # closed, a terminal, no JSON: VERSION answers all the same
    return {"cniVersion": version, "supportedVersions": list(SUPPORTED_VERSIONS)}


def _print(stdout: TextIO, body: dict[str, Any]) -> None:
    import json

    json.dump(body, stdout, indent=2)
    stdout.write("\n")
    stdout.flush()


def _traceback(error: BaseException) -> str:
    import traceback  # late: only for a bug

    return "".join(traceback.format_exception(error))


def main() -> None:
    """The console script. Ends without tearing the interpreter down, which would take as long as an ADD."""
    gc.disable()  # a program that lives 50 ms collects no garbage
    try:
        status = run(os.environ, 0, sys.stdout, sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:  # nobody reads stdout any more
        os.write(2, f"netsim-cni: cannot write the result: {error.strerror}\n".encode())
        status = 1
    os._exit(status)


if __name__ == "__main__":
    main()
