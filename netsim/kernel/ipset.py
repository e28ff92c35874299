"""ipsets of a namespace, by ``ipset restore`` and ``ipset save``, run by the spawner.

One process for any number of entries, in the language that ``ipset save`` prints and people know; the netlink protocol
of ipset would need the layout of every set type again. Source: ipset(8).
"""

import errno
import os

from netsim.kernel.netns import Netns
from netsim.kernel.process import Completed, ProcessSpec, Spawner
from netsim.model.errors import FeatureMissing, KernelError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT_S = 60.0


class Ipset:
    """The sets of one namespace."""

    def __init__(self, ns: Netns, spawner: Spawner) -> None:
        self.ns = ns
        self._spawner = spawner

    async def restore(self, text: str) -> None:
        """Do what each line says (``create``, ``add``, ``del``, ``flush``, ``destroy``), in order; what is so already
        is no error (-exist).

        Raises KernelError with the tool's words and the line it refused; the lines before it are done then.
        """
        done = await self._run(("restore", "-exist"), text.encode())
        if done.returncode:
            raise self._error("restore", done, text)

    async def save(self) -> str:
        """All sets with their entries, as ``ipset save`` prints them. Raises KernelError."""
        done = await self._run(("save",))
        if done.returncode:
            raise self._error("save", done, "")
        return done.stdout.decode(errors="replace")

    async def count_entries(self) -> dict[str, int]:
        """How many entries each set has, without reading them. Raises KernelError."""
        done = await self._run(("list", "-terse"))
        if done.returncode:
            raise self._error("list", done, "")
        counts: dict[str, int] = {}
        name = ""
        for line in done.stdout.decode(errors="replace").splitlines():
            key, _, value = line.partition(": ")
            if key == "Name":
                name = value
            elif key == "Number of entries":
                counts[name] = int(value)
        return counts

    async def _run(self, arguments: tuple[str, ...], text: bytes = b"") -> Completed:
        environment = {"PATH": f"{os.environ.get('PATH', '')}:{_PATH}"}
        spec = ProcessSpec(("ipset", *arguments), env=environment, netns=self.ns)
        try:
            return await self._spawner.run(spec, input=text, timeout_s=_TIMEOUT_S)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            raise FeatureMissing(
                "ipset", "the command ipset is not installed", where=self.ns.name, hint="apt install ipset"
            ) from None

    def _error(self, verb: str, done: Completed, text: str) -> KernelError:
        words = " ".join(done.stderr.decode(errors="replace").split()) or f"exit status {done.returncode}"
        number = words.partition("line ")[2].partition(":")[0]
        lines = text.splitlines()
        if number.isdigit() and 0 < int(number) <= len(lines):
            words += f"\n  line {number}: {lines[int(number) - 1]}"
        return KernelError(f"ipset {verb}: {words}", errno=errno.EINVAL, where=self.ns.name)
