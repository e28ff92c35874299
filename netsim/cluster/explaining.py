"""``netsim rules`` and ``netsim explain`` in the cluster process: names and addresses from the API, the rest from the
kernel, in worker threads.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from netsim.cluster.observing import find_place, map_places, name_all, note_destination, resolve
from netsim.cluster.service_entries import list_entries
from netsim.cluster.site import Site
from netsim.cluster.tracing import check_limits
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.model.errors import NetsimError, UsageError, not_found
from netsim.model.kinds import SERVICE
from netsim.model.objects import Object
from netsim.model.target import Destination, Target, parse_service, parse_target
from netsim.model.where import Where, parse_where
from netsim.observe.explain.answer import dump_explanation
from netsim.observe.explain.predict import Explainer, Explanation
from netsim.observe.explain.read import KernelWorld
from netsim.observe.path import Question, with_notes
from netsim.observe.rules.choose import choose_service_rules
from netsim.observe.rules.model import Entry, NodeRules, ServiceRules
from netsim.observe.rules.read import read_rules


def find_service(site: Site, target: Target) -> Object:
    """The Service object of a target. Raises ApiError 404 in upstream's words."""
    found = site.informers.of(SERVICE).get(target.namespace, target.service)
    if found is None:
        raise not_found("services", "", target.service)
    return found


async def service_rules(site: Site, service: str, node: str | None) -> ServiceRules:
    """What serves a Service on one node or on all. Raises ApiError, NetsimError."""
    target = parse_service(service)
    if target.port:
        raise UsageError(f"{target}: rules are those of a whole Service", hint=f"write {target.bare}")
    entries = list_entries(find_service(site, target))
    if not entries:
        hint = "DNS answers with its endpoints, and no rule is about it"
        raise NetsimError("a Service without an address of its own has no rules", where=target.bare, hint=hint)
    names = [node] if node else site.node_names()
    chosen = [(name, site.netns_at(Where("node", name))) for name in names]
    read = [asyncio.to_thread(_read_node, name, ns, site.spawner, entries) for name, ns in chosen]
    return ServiceRules(target.bare, entries, tuple(await asyncio.gather(*read)))


def _read_node(name: str, ns: Netns, spawner: Spawner, entries: Sequence[Entry]) -> NodeRules:
    rules = read_rules(ns, spawner)
    return NodeRules(name, tuple(choose_service_rules(rules, entries)), rules.notes)


async def explain_ways(site: Site, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Predict packets' ways, as JSON has them; all from one reading of the kernel's state. Raises UsageError, ApiError,
    NetsimError.
    """
    return await asyncio.to_thread(_explain, site, requests)


def _explain(site: Site, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    every = map_places(site)
    questions = [_ask(site, every, request) for request in requests]
    explainer = Explainer(KernelWorld(every, site.spawner), name_all(site, every))
    return [dump_explanation(_with_notes(site, explainer.explain(question))) for question in questions]


def _with_notes(site: Site, found: Explanation) -> Explanation:
    """Each way has them too, which is what is shown as text."""
    asked = found.question
    notes = note_destination(site, Destination(asked.address, asked.port, asked.protocol))
    ways = tuple(replace(way, path=with_notes(way.path, notes)) for way in found.ways)
    return replace(found, ways=ways, notes=(*notes, *found.notes))


def _ask(site: Site, every: Mapping[str, Netns], request: dict[str, Any]) -> Question:
    where, target = parse_where(request["from"]), parse_target(request["to"])
    source = find_place(site, every, where)
    family = request.get("family") or ((6 if ":" in target.address else 4) if target.address else None)
    destination = resolve(site, target, request.get("protocol"), family)
    size = int(request.get("size") or 0)
    check_limits(1, size)
    return Question(source, str(target), destination.protocol, destination.address, destination.port, size)
