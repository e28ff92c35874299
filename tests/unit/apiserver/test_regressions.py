"""Faults that were found once."""

import pytest

from netsim.model.errors import ApiError
from tests.unit.apiserver.server import PODS, Server, make_pod


@pytest.mark.parametrize("kind", ["merge", "strategic-merge"])
def test_a_status_patch_may_not_take_the_metadata_away(kind: str) -> None:
    server = Server()
    server.create(PODS, make_pod())
    with pytest.raises(ApiError, match="may not take the metadata away") as caught:
        server.patch(f"{PODS}/web/status", {"metadata": None}, kind)
    assert caught.value.code == 400


def test_a_json_patch_of_the_status_must_leave_an_object() -> None:
    server = Server()
    server.create(PODS, make_pod())
    with pytest.raises(ApiError) as caught:
        server.patch(f"{PODS}/web/status", [{"op": "replace", "path": "", "value": 5}], "json")
    assert caught.value.code == 400
