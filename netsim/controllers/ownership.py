"""Adopting and releasing: the objects a controller's selector picks are the ones that carry its ownerReference.

Source: kubernetes ``pkg/controller/controller_ref_manager.go``.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from netsim.client.api import Api
from netsim.model.errors import ApiError
from netsim.model.kinds import Kind
from netsim.model.objects import (
    Object,
    is_deleting,
    labels_of,
    make_owner_ref,
    name_of,
    namespace_of,
    owner_refs_of,
    uid_of,
)
from netsim.model.selectors import LabelSelector

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claims:
    """``kept`` are the owner's already; ``adopt`` shall become so; ``release`` shall not be any more."""

    kept: list[Object]
    adopt: list[Object]
    release: list[Object]


def plan_claims(owner: Object, selector: LabelSelector, owned: Iterable[Object], orphans: Iterable[Object]) -> Claims:
    """Who belongs to ``owner``. An owner that is being deleted adopts and releases nothing."""
    kept, release = [], []
    for obj in owned:
        if selector.matches(labels_of(obj)):
            kept.append(obj)
        elif not is_deleting(owner):
            release.append(obj)
    adopt: list[Object] = []
    if not is_deleting(owner):
        adopt = [obj for obj in orphans if not is_deleting(obj) and selector.matches(labels_of(obj))]
    return Claims(kept, adopt, release)


async def apply_claims(api: Api, owner: Object, owner_kind: Kind, kind: Kind, claims: Claims) -> list[Object]:
    """Write adoptions and releases; returns the objects that are the owner's now.

    An object that changed or vanished meanwhile is left for the next round.
    """
    mine = list(claims.kept)
    for obj in claims.adopt:
        references = [*owner_refs_of(obj), make_owner_ref(owner, owner_kind)]
        adopted = await _write_owners(api, kind, obj, references)
        if adopted is not None:
            mine.append(adopted)
    for obj in claims.release:
        references = [reference for reference in owner_refs_of(obj) if reference.get("uid") != uid_of(owner)]
        await _write_owners(api, kind, obj, references)
    return mine


async def _write_owners(api: Api, kind: Kind, obj: Object, references: list[Object]) -> Object | None:
    # The resourceVersion makes two controllers that want the same orphan collide instead of both winning.
    metadata = {"ownerReferences": references, "resourceVersion": obj["metadata"].get("resourceVersion")}
    try:
        return await api.patch(kind, name_of(obj), {"metadata": metadata}, namespace_of(obj))
    except ApiError as error:
        if error.code not in (404, 409, 422):
            raise
        log.debug("%s %s/%s: %s", kind.kind, namespace_of(obj), name_of(obj), error)
        return None
