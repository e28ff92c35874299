"""netem over rtnetlink: delay, loss, duplication, corruption, reordering and a rate, in one qdisc. Builders are pure.

Sources: tc-netem(8), include/uapi/linux/pkt_sched.h, net/sched/sch_netem.c.
"""

import errno
import struct
from dataclasses import dataclass

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.rtnl_socket import BatchError, Channel
from netsim.kernel.rtnl_wire import Message, attribute

_RTM_NEWQDISC = 36
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TC_H_ROOT = 0xFFFFFFFF
_REORDER, _CORRUPT, _RATE, _RATE64, _LATENCY64, _JITTER64 = 3, 4, 6, 8, 10, 11
_TCMSG = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
# struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter; times are in LATENCY64 and JITTER64 instead.
_QOPT = struct.Struct("=IIIIII")
_CHANCE = struct.Struct("=II")  # struct tc_netem_reorder, tc_netem_corrupt: probability, correlation
_RATE_SPEC = struct.Struct("=IiIi")  # struct tc_netem_rate: bytes/s, packet overhead, cell size, cell overhead
_LOOPBACK = 1  # the index of lo, in every namespace


@dataclass(frozen=True, slots=True)
class Netem:
    """What netem does to each packet. Percentages from 0 to 100, of packets."""

    delay_s: float = 0.0
    jitter_s: float = 0.0  # uniformly from delay - jitter to delay + jitter
    loss_percent: float = 0.0
    duplicate_percent: float = 0.0
    corrupt_percent: float = 0.0
    reorder_percent: float = 0.0  # these leave at once, the others after the delay
    rate_bytes: int = 0  # a second; 0: no limit
    limit_packets: int = 10_000  # what may wait

    def __str__(self) -> str:
        """As tc-netem(8) has it."""
        words = [f"netem limit {self.limit_packets}"]
        if self.delay_s or self.jitter_s:
            jitter = f" {self.jitter_s * 1000:g}ms" if self.jitter_s else ""
            words.append(f"delay {self.delay_s * 1000:g}ms{jitter}")
        for word in ("loss", "duplicate", "corrupt", "reorder"):
            percent = getattr(self, f"{word}_percent")
            if percent:
                words.append(f"{word} {percent:g}%")
        if self.rate_bytes:
            words.append(f"rate {self.rate_bytes * 8}bit")
        return " ".join(words)


def new_netem(ifindex: int, netem: Netem, *, handle: int) -> Message:
    """netem at the root of a link, in the place of what is there or changed in place. ENOENT where the kernel has none
    (CONFIG_NET_SCH_NETEM).
    """
    gap = 1 if netem.reorder_percent else 0
    options = _QOPT.pack(0, netem.limit_packets, _chance(netem.loss_percent), gap, _chance(netem.duplicate_percent), 0)
    # Always all of them: what is left out of a change stays as it was.
    options += attribute(_LATENCY64, struct.pack("=q", round(netem.delay_s * 1e9)))
    options += attribute(_JITTER64, struct.pack("=q", round(netem.jitter_s * 1e9)))
    if gap:
        options += attribute(_REORDER, _CHANCE.pack(_chance(netem.reorder_percent), 0))
    options += attribute(_CORRUPT, _CHANCE.pack(_chance(netem.corrupt_percent), 0))
    if netem.rate_bytes > 0xFFFFFFFF:
        options += attribute(_RATE64, struct.pack("=Q", netem.rate_bytes))
    options += attribute(_RATE, _RATE_SPEC.pack(min(netem.rate_bytes, 0xFFFFFFFF), 0, 0, 0))
    body = _TCMSG.pack(0, ifindex, handle, _TC_H_ROOT, 0) + wire.text(_TCA_KIND, "netem")
    body += attribute(_TCA_OPTIONS, options)
    words = f"tc qdisc replace dev if{ifindex} root handle {handle >> 16:x}: {netem}"
    return Message(_RTM_NEWQDISC, wire.NLM_F_CREATE | wire.NLM_F_REPLACE, body, words)


def _chance(percent: float) -> int:
    return round(percent / 100 * 0xFFFFFFFF)


def has_netem(channel: Channel) -> bool:
    """Whether the kernel has netem; one that has it as a module loads it for this. Nothing is changed.

    Without options a known qdisc is refused with EINVAL, an unknown one with ENOENT (net/sched/sch_api.c). Raises
    KernelError for any other refusal.
    """
    body = _TCMSG.pack(0, _LOOPBACK, 0, _TC_H_ROOT, 0) + wire.text(_TCA_KIND, "netem")
    words = "tc qdisc add dev lo root netem"
    try:
        channel.batch([Message(_RTM_NEWQDISC, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body, words)])
    except BatchError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return error.errno == errno.EINVAL
        raise
    return True
