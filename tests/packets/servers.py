"""What listens in the matrix while somebody else asks: the prober's own servers answer only while it asks itself."""

import selectors
import socket
import threading

from netsim.kernel.netns import Netns
from tests.packets.cells import PORTS, STRAY_PORT
from tests.packets.matrix import Ground
from tests.packets.probes import KINDS


class Servers:
    """What listens in the matrix, answering from a thread: datagrams are echoed, connections come by themselves."""

    def __init__(self, ground: Ground) -> None:
        self._selector = selectors.DefaultSelector()
        self._ours, self._theirs = socket.socketpair()
        self._selector.register(self._ours, selectors.EVENT_READ)
        self._sockets: list[socket.socket] = [self._ours, self._theirs]
        for family in (4, 6):
            strays = [address for (_, version), address in ground.strays.items() if version == family]
            for protocol, (_, port) in PORTS.items():
                if protocol in ground.protocols:
                    for pod in ("web-1", "web-2"):
                        self._listen(ground.netns[pod], protocol, "::" if family == 6 else "0.0.0.0", port)
                    for address in strays:
                        self._listen(ground.netns["outside"], protocol, address, STRAY_PORT)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._theirs.send(b"end")
        self._thread.join()
        for one in self._sockets:
            one.close()
        self._selector.close()

    def _listen(self, ns: Netns, protocol: str, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        one = ns.socket(family, *KINDS[protocol])
        self._sockets.append(one)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))
        if protocol == "udp":
            self._selector.register(one, selectors.EVENT_READ)
        else:
            one.listen(1024)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found is self._ours:
                    return
                try:
                    data, peer = found.recvfrom(65536)
                    found.sendto(data, peer)
                except OSError:  # an ICMP error about an answer before
                    continue
