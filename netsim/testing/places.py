"""What the packet and traffic tools need of a cluster: sockets that live at a place, and the interfaces there."""

import socket as sockets
from collections.abc import Sequence
from typing import Protocol


class Link(Protocol):
    """One network interface; ``addresses`` with their prefix lengths."""

    @property
    def name(self) -> str: ...

    @property
    def mac(self) -> str: ...

    @property
    def addresses(self) -> Sequence[str]: ...


class Places(Protocol):
    """A cluster, or whatever else has places: ``netsim.cluster.handle.Cluster`` is one."""

    def socket(self, where: str, family: int = ..., type: int = ..., proto: int = ...) -> sockets.socket:
        """An ordinary socket that lives at the place ``where``."""
        ...

    def packet_socket(self, where: str, interface: str = ...) -> sockets.socket:
        """A raw AF_PACKET socket bound to an interface of that place."""
        ...

    def interfaces(self, where: str) -> Sequence[Link]:
        """The interfaces of that place."""
        ...
