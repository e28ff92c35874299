"""What of a node's state is not there any more, because somebody else took it away. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping

from netsim.ruleset.ipvs import RealServer, RealState, ServerKey
from proxy.ipvs.plan import NodeState
from proxy.ipvs.sets import Entry

# How many virtual servers are looked into in one check: a node with more is gone through in several.
SAMPLE = 200


def choose_sample(state: NodeState, start: int) -> list[ServerKey]:
    """The virtual servers to look into, beginning with number ``start``; each comes in its turn."""
    keys = list(state.servers)
    return [keys[(start + number) % len(keys)] for number in range(min(SAMPLE, len(keys)))]


def describe_missing(state: NodeState, addresses: Collection[str], entries: Mapping[str, int]) -> str:
    """Addresses of kube-ipvs0, and sets with fewer entries than they had; "" where all are there."""
    wanted = {item for item in state.uses if isinstance(item, str)}
    lost = wanted - frozenset(addresses)
    counted = Counter(item.set for item in state.uses if isinstance(item, Entry))
    short = sorted(name for name, number in counted.items() if entries.get(name, 0) < number)
    words = [f"{len(lost)} addresses"] if lost else []
    return ", ".join(words + ([f"entries of {' '.join(short)}"] if short else []))


def describe_missing_reals(state: NodeState, key: ServerKey, reals: Mapping[RealServer, RealState] | None) -> str:
    """Real servers of one virtual server; ``reals`` is None where there is no such virtual server."""
    if reals is None:
        return f"virtual server {key}"
    lost = [real for real in state.servers[key].reals if real not in reals or not reals[real].weight]
    return f"{len(lost)} real servers of {key}" if lost else ""
