"""Files of /proc/net as a network namespace has them: what some subsystems tell in no other way."""

from netsim.kernel.netns import Netns


def read_proc_net(ns: Netns, name: str) -> str | None:
    """The text of ``/proc/net/NAME`` there; None where there is no such file, or it may not be read. Blocking."""
    with ns.entered():
        try:
            with open(f"/proc/thread-self/net/{name}", encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None
