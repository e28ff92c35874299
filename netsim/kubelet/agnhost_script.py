"""agnhost's commands that need a process, for `/agnhost` in containers. Run by ``python -IS``; standard library only.

Source: kubernetes test/images/agnhost/{connect,dns,entrypoint-tester}.
"""

import errno
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float | None:
    """Seconds of a Go duration; None for 0, which is no limit."""
    parts = re.findall(r"(\d+(?:\.\d*)?)(ns|us|ms|s|m|h)", text)
    if text != "0" and "".join(number + unit for number, unit in parts) != text:
        sys.exit(f'invalid argument "{text}" for "--timeout" flag')
    return sum(float(number) * UNITS_S[unit] for number, unit in parts) or None


def fail(word: str) -> NoReturn:
    print(word, file=sys.stderr)
    sys.exit(1)


def read_options(arguments: Sequence[str], known: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """(positional arguments, values); ``--name=value`` and ``--name value``."""
    values, rest, positional = dict(known), list(arguments), []
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            positional.append(argument)
        elif name in known:
            values[name] = text if equals or not rest else rest.pop(0)
        elif name not in ("v", "logtostderr"):
            sys.exit(f"Error: unknown flag: --{name}")
    return positional, values


def connect(arguments: Sequence[str]) -> None:
    """connect HOST:PORT: exit 0 in silence, or 1 with one word on stderr."""
    known = {"timeout": "0", "protocol": "tcp", "udp-data": "hostname"}
    positional, options = read_options(arguments, known)
    if len(positional) != 1:
        sys.exit("Error: accepts 1 arg(s)")
    host, colon, port = positional[0].rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        fail(f"UNKNOWN: address {positional[0]}: no port, or a bad one")
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}.get(options["protocol"])
    if kind is None:
        fail(f"OTHER: protocol {options['protocol']} is not supported")
    try:
        found = socket.getaddrinfo(host.strip("[]") or "localhost", int(port), type=kind)
    except socket.gaierror as error:
        fail(f"DNS: lookup {host}: {error.strerror}")
    try_connect(found[0], parse_duration(options["timeout"]), kind == socket.SOCK_DGRAM)


def try_connect(found: tuple[Any, ...], timeout_s: float | None, udp: bool) -> None:
    family, kind, protocol, _, address = found
    with socket.socket(family, kind, protocol) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(address)
            if udp:
                client.send(b"DATA\n")
                if not client.recv(64):
                    fail("OTHER: no answer")
        except TimeoutError as error:
            fail(f"TIMEOUT: {error}" if udp else "TIMEOUT")
        except ConnectionRefusedError as error:
            fail(f"REFUSED: {error}" if udp else "REFUSED")
        except OSError as error:
            fail("TIMEOUT" if error.errno == errno.ETIMEDOUT else f"OTHER: {error}")


def read_resolver(word: str) -> list[str]:
    with open("/etc/resolv.conf", encoding="utf-8") as file:
        lines = [line.split() for line in file]
    return [value for line in lines if line and line[0] == word for value in line[1:]]


def main() -> None:
    program, *arguments = sys.argv
    command = arguments.pop(0) if arguments else ""
    if command == "connect":
        connect(arguments)
    elif command == "dns-suffix":
        print(",".join(read_resolver("search")), end="")
    elif command == "dns-server-list":
        print(",".join(read_resolver("nameserver")), end="")
    elif command == "etc-hosts":
        with open("/etc/hosts", encoding="utf-8") as file:
            print(file.read(), end="")
    elif command == "entrypoint-tester":
        print([program, command, *arguments])
    elif command in ("", "pause", "netexec", "serve-hostname"):
        sys.exit(f"Error: {command or 'pause'} runs as the container's own command only, not by exec")
    else:
        sys.exit(f'Error: unknown command "{command}" for "app"')


if __name__ == "__main__":
    main()
