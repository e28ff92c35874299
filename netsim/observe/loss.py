"""Whether it is known while an answer is still waited for that none will come: a rule was seen to drop the probe."""

import time
from collections.abc import Callable, Sequence

from netsim.kernel.nft_trace import TraceMessage
from netsim.observe.own import Own
from netsim.observe.posts import Post

# What a rule drops may be one of several copies of a frame, of which another arrived: then the answer is there by now.
_AFTERWARDS_S = 0.1


class Loss:
    """Of one probe. Legacy iptables' log tells no verdict, and the kernel's drop reasons no packet: for what these have
    to say the whole time is waited.
    """

    def __init__(self, make_own: Callable[[], Own], posts: Sequence[Post]) -> None:
        """``make_own``: by what was read of ``posts`` up to then."""
        self._make_own = make_own
        self._posts = posts
        self._dropped_s = float("inf")

    def is_certain(self) -> bool:
        """Whether the probe, or its answer, was dropped a moment ago and nothing came of it."""
        now_s = time.monotonic()
        if self._dropped_s > now_s and self._is_dropped():
            self._dropped_s = now_s
        return now_s - self._dropped_s >= _AFTERWARDS_S

    def _is_dropped(self) -> bool:
        drops = [(post, message) for post in self._posts for message in post.messages if message.verdict == "drop"]
        if not drops:
            return False
        own = self._make_own()
        return any(own.has(packet) for post, drop in drops for packet in _find_headers(post.messages, drop.packet_id))


def _find_headers(messages: Sequence[TraceMessage], packet_id: int) -> list[bytes]:
    """What was told of a packet: by the first message of each hook that it met."""
    return [one.packet for one in messages if one.packet_id == packet_id and one.packet]
