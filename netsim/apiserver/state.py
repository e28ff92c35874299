"""What every verb works on: the store, the kinds' strategies, the clock."""

import random
import uuid
from typing import Any

from netsim.apiserver.podruntime import PodRuntime
from netsim.apiserver.strategies.base import Strategy
from netsim.apiserver.strategies.registry import make_strategies
from netsim.model.clock import Clock
from netsim.model.config import ClusterConfig
from netsim.model.errors import not_found
from netsim.model.kinds import Kind
from netsim.model.objects import format_time
from netsim.store.store import Record, Store

Object = dict[str, Any]

# Upstream's alphabet for generated names: no vowels, so that no words come out, and no 0, 1, 3 or O, I, E look-alikes.
# Source: kubernetes staging/src/k8s.io/apimachinery/pkg/util/rand/rand.go.
_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_NAME_RANDOM = 5
_NAME_PREFIX_MAX = 63 - _NAME_RANDOM


class State:
    """Shared by the verbs of one API server."""

    def __init__(self, store: Store, config: ClusterConfig, clock: Clock, pods: PodRuntime | None) -> None:
        self.store = store
        self.config = config
        self.clock = clock
        self.pods = pods
        self._strategies: dict[Kind, Strategy] = make_strategies(config)
        self._random = random.Random()  # names of pods: they must differ, not be secret
        for kind, strategy in self._strategies.items():
            for record in store.records(kind.resource):
                strategy.restore(record.value)

    def strategy(self, kind: Kind) -> Strategy:
        return self._strategies[kind]

    def now(self) -> str:
        """The time as objects carry it."""
        return format_time(self.clock.wall_s())

    def record(self, kind: Kind, namespace: str | None, name: str) -> Record:
        """The object, or ApiError 404."""
        found = self.store.get(kind.resource, namespace or "", name)
        if found is None:
            raise not_found(kind.plural, kind.group, name)
        return found

    def generate_name(self, prefix: str) -> str:
        """``prefix`` and five random letters, as generateName asks."""
        return prefix[:_NAME_PREFIX_MAX] + "".join(self._random.choices(_NAME_LETTERS, k=_NAME_RANDOM))

    @staticmethod
    def new_uid() -> str:
        return str(uuid.uuid4())
