"""The one ServiceCIDR: what it says, how it prints, and what may not be done with it."""

from typing import Any

import pytest

from netsim.model.config import parse_config
from netsim.model.errors import ApiError
from tests.unit.apiserver.server import TABLE, Server

PATH = "/apis/networking.k8s.io/v1/servicecidrs"


def make_server(**topology: Any) -> Server:
    return Server(parse_config(topology))


@pytest.mark.parametrize(
    ("topology", "cidrs"),
    [
        ({}, ["10.96.0.0/12"]),
        ({"ipFamily": "dual"}, ["10.96.0.0/12", "fd00:10:96::/112"]),
        ({"serviceCIDR": "fd02::/112,10.9.0.0/16"}, ["fd02::/112", "10.9.0.0/16"]),
    ],
)
def test_it_says_the_topologys_networks_the_primary_family_first(topology: dict[str, Any], cidrs: list[str]) -> None:
    server = make_server(**topology)
    (found,) = server.get(PATH)["items"]
    assert (found["metadata"]["name"], found["spec"]) == ("kubernetes", {"cidrs": cidrs})
    (ready,) = found["status"]["conditions"]
    assert (ready["type"], ready["status"]) == ("Ready", "True")
    assert ready["lastTransitionTime"] == found["metadata"]["creationTimestamp"]
    table = server.get(PATH, accept=TABLE)
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "CIDRs", "Age"]
    assert table["rows"][0]["cells"] == ["kubernetes", ",".join(cidrs), "0s"]


@pytest.mark.parametrize(
    ("cidrs", "text"),
    [
        ([], "spec.cidrs: Required value: at least one CIDR required"),
        (["10.1.0.0/16", "fd01::/112", "10.2.0.0/16"], r'CIDRs:\[\]string\{"10.1.0.0/16", .*may only hold up to 2'),
        (["10.1.0.0/16", "10.2.0.0/16"], "may specify no more than one IP for each IP family"),
        (["10.1.0.0/16", "x"], "may specify no more than one IP for each IP family"),
        (["10.1.0.0"], r'spec.cidrs\[0\]: Invalid value: "10.1.0.0": must be a valid CIDR value'),
        (["10.1.0.0/255.255.0.0"], "must be a valid CIDR value"),
        (["010.1.0.0/16"], "must be a valid CIDR value"),
        (["fe80::%1/64"], "must be a valid CIDR value"),
        (["10.1.0.1/16"], r'must be in canonical form \("10.1.0.0/16"\)'),
        (["10.1.0.0/016"], r'must be in canonical form \("10.1.0.0/16"\)'),
        (["fd01:0::/112"], r'must be in canonical form \("fd01::/112"\)'),
    ],
)
def test_what_is_no_pair_of_networks_is_invalid(cidrs: list[str], text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        make_server().create(PATH, {"metadata": {"name": "more"}, "spec": {"cidrs": cidrs}})
    assert caught.value.code == 422


def test_there_is_no_second_network_and_the_first_stays() -> None:
    server = make_server()
    more = {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.1.0.0/16"]}}
    for call in (
        lambda: server.create(PATH, more),
        lambda: server.create(PATH, more, query={"dryRun": "All"}),
        lambda: server.delete(f"{PATH}/kubernetes"),
        lambda: server.delete(PATH),
    ):
        with pytest.raises(ApiError, match="the service network is serviceCIDR of the cluster's topology") as caught:
            call()
        assert caught.value.code == 403
    with pytest.raises(ApiError, match=r"spec.cidrs: Invalid value: .*field is immutable"):
        server.patch(f"{PATH}/kubernetes", {"spec": {"cidrs": ["10.1.0.0/16"]}})
    assert server.names(PATH) == ["kubernetes"]


def test_labels_may_be_put_on_it() -> None:
    changed = make_server().patch(f"{PATH}/kubernetes", {"metadata": {"labels": {"a": "b"}}, "status": {}})
    assert changed["metadata"]["labels"] == {"a": "b"}
    assert changed["status"]["conditions"]
