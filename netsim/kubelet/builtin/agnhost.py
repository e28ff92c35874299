"""agnhost's commands that need no process: their flags, and the sockets they listen on. Pure, standard library only.

Source: kubernetes test/images/agnhost/{netexec,serve-hostname,test-webserver,porter}.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
SERVE_HOSTNAME_LINGER_S = 60.0  # "Awaiting pod deletion", serve-hostname/serve_hostname.go


class FlagError(ValueError):
    """An unknown flag or a bad value, in cobra's words."""


@dataclass(frozen=True, slots=True)
class Listen:
    """One socket to open in the pod: role is ``http``, ``tcp`` or ``udp``."""

    protocol: str  # TCP or UDP
    port: int
    role: str
    address: str = ""  # "" is every address


@dataclass(frozen=True, slots=True)
class BuiltinPlan:
    """What a built-in container listens on, what the responder must know, and how it takes SIGTERM.

    linger_s: seconds it goes on serving after SIGTERM; then it exits with ``term_code``.
    netns: whether the responder needs the pod's namespace (for client sockets).
    """

    kind: str
    listens: tuple[Listen, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    linger_s: float = 0.0
    term_code: int = 0
    netns: bool = False
    lines: tuple[str, ...] = ()  # what it logs when it starts


def parse_duration(text: str) -> float:
    """Seconds of a Go duration: ``1s``, ``1m30s``, ``500ms``, ``0``. Raises FlagError."""
    if text in ("", "0"):
        return 0.0
    position, total = 0, 0.0
    for match in _DURATION.finditer(text):
        if match.start() != position:
            break
        total += float(match[1]) * _UNITS_S[match[2]]
        position = match.end()
    if position != len(text) or not text:
        raise FlagError(f'time: invalid duration "{text}"')
    return total


def parse_flags(arguments: Sequence[str], known: Mapping[str, type]) -> dict[str, Any]:
    """``--name=value`` and ``--name value``; booleans may stand alone. klog's flags are accepted. Raises FlagError."""
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            raise FlagError(f'unknown argument "{argument}"')
        wanted = known.get(name)
        if wanted is None:
            if name in ("v", "logtostderr", "alsologtostderr", "vmodule", "stderrthreshold"):
                continue
            raise FlagError(f"unknown flag: --{name}")
        if wanted is bool:
            values[name] = text.lower() not in ("false", "0", "f") if equals else True
            continue
        if not equals:
            if not rest:
                raise FlagError(f"flag needs an argument: --{name}")
            text = rest.pop(0)
        try:
            values[name] = wanted(text)
        except ValueError as error:
            raise FlagError(f'invalid argument "{text}" for "--{name}" flag') from error
    return values


def plan_netexec(arguments: Sequence[str]) -> BuiltinPlan:
    """netexec: HTTP and UDP, 8080 and 8081 unless told otherwise."""
    flags = parse_flags(
        arguments,
        {
            "http-port": int,
            "udp-port": int,
            "sctp-port": int,
            "tls-cert-file": str,
            "tls-private-key-file": str,
            "http-override": str,
            "udp-listen-addresses": str,
            "delay-shutdown": int,
        },
    )
    if flags.get("tls-cert-file"):
        raise FlagError("--tls-cert-file: TLS is not supported by the built-in netexec")
    if flags.get("sctp-port", -1) != -1:
        raise FlagError("--sctp-port: SCTP is not supported by the built-in netexec")
    http_port, udp_port = flags.get("http-port", 8080), flags.get("udp-port", 8081)
    listens = [Listen("TCP", http_port, "http")] if http_port != -1 else []
    lines = [f"Started HTTP server on port {http_port}"]
    if udp_port != -1:
        addresses = [a for a in str(flags.get("udp-listen-addresses", "")).split(",") if a] or [""]
        listens += [Listen("UDP", udp_port, "udp", address) for address in addresses]
        lines.append(f"Started UDP server on port  {udp_port}")
    options = {"udp": udp_port != -1, "override": flags.get("http-override", "")}
    return BuiltinPlan(
        "netexec",
        tuple(listens),
        options,
        linger_s=float(flags.get("delay-shutdown", 0)),
        netns=True,
        lines=tuple(lines),
    )


def plan_serve_hostname(arguments: Sequence[str]) -> BuiltinPlan:
    """serve-hostname: the host name over HTTP, or over TCP and UDP, on port 9376."""
    flags = parse_flags(arguments, {"http": bool, "tcp": bool, "udp": bool, "port": int, "close": bool})
    http, tcp, udp = flags.get("http", True), flags.get("tcp", False), flags.get("udp", False)
    if http and (tcp or udp):
        raise FlagError("Can't server TCP/UDP mode and HTTP mode at the same time")
    port = flags.get("port", 9376)
    listens = [Listen("TCP", port, "http" if http else "tcp")] if http or tcp else []
    if udp:
        listens.append(Listen("UDP", port, "udp"))
    options = {"tcp": not http, "close": flags.get("close", False)}
    return BuiltinPlan("serve-hostname", tuple(listens), options, linger_s=SERVE_HOSTNAME_LINGER_S)


def plan_test_webserver(arguments: Sequence[str]) -> BuiltinPlan:
    """test-webserver: files of the container's volumes on port 80."""
    flags = parse_flags(arguments, {"port": int})
    return BuiltinPlan("test-webserver", (Listen("TCP", flags.get("port", 80), "http"),))


def plan_porter(arguments: Sequence[str], environment: Mapping[str, str]) -> BuiltinPlan:
    """porter: a fixed answer on each port named by SERVE_PORT_N in the environment."""
    flags = parse_flags(arguments, {"json-response": bool})
    values: dict[str, str] = {}
    for name, value in environment.items():
        if name.startswith(("SERVE_TLS_PORT_", "SERVE_SCTP_PORT_")):
            raise FlagError(f"{name}: only SERVE_PORT_N is supported by the built-in porter")
        if name.startswith("SERVE_PORT_") and name[11:].isdigit():
            values[name[11:]] = value
    listens = tuple(Listen("TCP", int(port), "http") for port in values)
    return BuiltinPlan("porter", listens, {"values": values, "json": flags.get("json-response", False)})


def plan_agnhost(command: str, arguments: Sequence[str], environment: Mapping[str, str]) -> BuiltinPlan:
    """The plan of one built-in agnhost command. Raises FlagError."""
    if command == "netexec":
        return plan_netexec(arguments)
    if command == "serve-hostname":
        return plan_serve_hostname(arguments)
    if command == "test-webserver":
        return plan_test_webserver(arguments)
    if command == "porter":
        return plan_porter(arguments, environment)
    return plan_pause()


def plan_pause() -> BuiltinPlan:
    """pause: nothing, until SIGTERM, to which it exits with 2."""
    return BuiltinPlan("pause", term_code=2, lines=("Paused",))


def plan_responder(kind: str, container: Mapping[str, Any], name: str) -> BuiltinPlan:
    """A page (nginx, httpd) or the responder that stands in for any other image: every declared port listens."""
    ports = [(str(p.get("protocol") or "TCP"), int(p["containerPort"])) for p in container.get("ports") or ()]
    if kind == "page" and ("TCP", 80) not in ports:
        ports.append(("TCP", 80))
    listens = [Listen(protocol, port, protocol.lower()) for protocol, port in dict.fromkeys(ports)]
    return BuiltinPlan(kind, tuple(listens), {"image": name})
