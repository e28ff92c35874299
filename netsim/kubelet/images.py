"""Which way a container runs: built-in or process. Pure.

There are no images here, so the image's *name* and the container's command decide. What was chosen goes into
``containerStatuses[].imageID`` and the ``Started`` event, so that nothing pretends in silence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

AGNHOST_PROGRAMS = ("/agnhost", "agnhost", "/agnhost-2")
PAUSE_PROGRAMS = ("/pause", "pause")
# agnhost commands that need no process. The others the script `agnhost` knows run as processes (connect, ...).
AGNHOST_BUILTIN = ("netexec", "pause", "serve-hostname", "test-webserver", "porter")
AGNHOST_SCRIPT = ("connect", "dns-suffix", "dns-server-list", "etc-hosts", "entrypoint-tester")
WEB_IMAGES = ("nginx", "httpd")
# Images without an ENTRYPOINT: their `args` are the command. Others' unknown entrypoint is stood in for.
NO_ENTRYPOINT = frozenset(
    {"busybox", "alpine", "debian", "ubuntu", "centos", "fedora", "rockylinux", "almalinux", "amazonlinux", "netshoot"}
)


@dataclass(frozen=True, slots=True)
class Choice:
    """How one container runs.

    kind:  for a built-in, what stands in: ``netexec``, ``serve-hostname``, ``test-webserver``, ``porter``, ``pause``,
           ``page`` (nginx, httpd) or ``responder``; for a process ``process``.
    name:  the word for people: ``nginx``, ``agnhost netexec``, ``sleep``.
    argv:  the command of a process, or an agnhost command's arguments after its name.
    """

    way: Literal["builtin", "process"]
    kind: str
    name: str
    argv: tuple[str, ...] = ()

    @property
    def image_id(self) -> str:
        """``netsim-builtin://nginx``, ``netsim-process://sleep``."""
        return f"netsim-{self.way}://{self.name.replace(' ', '-')}"

    @property
    def words(self) -> str:
        """``built-in: nginx``, ``process: sleep``: the way, for messages."""
        return f"built-in: {self.name}" if self.way == "builtin" else f"process: {self.name}"


def image_base(image: str) -> str:
    """``registry.k8s.io:5000/e2e/agnhost:2.53@sha256:...`` is ``agnhost``."""
    last = image.partition("@")[0].rpartition("/")[2]
    return last.partition(":")[0]


def choose_way(container: Mapping[str, Any], command: Sequence[str], args: Sequence[str]) -> Choice:
    """The way ``container`` runs; ``command`` and ``args`` are its own, with ``$(VAR)`` expanded."""
    base = image_base(str(container.get("image", "")))
    if not command and base == "agnhost":
        command, args = ("/agnhost",), tuple(args) or ("pause",)
    if not command and args and base in NO_ENTRYPOINT:
        command, args = args, ()
    if command:
        argv = (*command, *args)
        if argv[0] in AGNHOST_PROGRAMS:
            return _choose_agnhost(argv)
        if argv[0] in PAUSE_PROGRAMS and len(argv) == 1:
            return Choice("builtin", "pause", "pause")
        return Choice("process", "process", argv[0].rpartition("/")[2], argv)
    if base == "pause":
        return Choice("builtin", "pause", "pause")
    if base in WEB_IMAGES:
        return Choice("builtin", "page", base)
    return Choice("builtin", "responder", f"responder for {base}")


def _choose_agnhost(argv: tuple[str, ...]) -> Choice:
    arguments = list(argv[1:])
    index = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), -1)
    if index < 0:  # only klog flags: what the image's CMD says
        return Choice("builtin", "pause", "agnhost pause")
    command = arguments.pop(index)
    if command in AGNHOST_BUILTIN:
        return Choice("builtin", command, f"agnhost {command}", tuple(arguments))
    return Choice("process", "process", f"agnhost {command}", argv)
