"""Services and address families: what they get in a cluster of each kind, how they change, what is refused."""

import pytest

from netsim.model.config import parse_config
from netsim.model.errors import ApiError
from tests.unit.apiserver.server import SERVICES, Object, Server, make_service

WEB = f"{SERVICES}/web"
BOTH, SINGLE, PREFER, REQUIRE = ["IPv4", "IPv6"], "SingleStack", "PreferDualStack", "RequireDualStack"


def make_server(family: str, **document: object) -> Server:
    return Server(parse_config({"ipFamily": family, **document}))


@pytest.fixture
def dual() -> Server:
    return make_server("dual")


def families(service: Object) -> tuple[str, list[str], list[str]]:
    """Policy, families, and the families of the addresses; the first address is clusterIP, too."""
    spec = service["spec"]
    if spec["clusterIP"] != "None":
        assert spec["clusterIP"] == spec["clusterIPs"][0]
    of_ips = ["IPv6" if ":" in ip else "IPv4" for ip in spec["clusterIPs"] if ip != "None"]
    return spec["ipFamilyPolicy"], spec["ipFamilies"], of_ips


@pytest.mark.parametrize(
    ("family", "spec", "expected"),
    [
        ("ipv4", {}, (SINGLE, ["IPv4"], ["IPv4"])),
        ("ipv6", {}, (SINGLE, ["IPv6"], ["IPv6"])),
        ("dual", {}, (SINGLE, ["IPv4"], ["IPv4"])),
        ("dual", {"ipFamilies": ["IPv6"]}, (SINGLE, ["IPv6"], ["IPv6"])),
        ("dual", {"clusterIP": "fd00:10:96::77"}, (SINGLE, ["IPv6"], ["IPv6"])),
        ("dual", {"ipFamilyPolicy": PREFER}, (PREFER, BOTH, BOTH)),
        ("dual", {"ipFamilyPolicy": REQUIRE}, (REQUIRE, BOTH, BOTH)),
        ("dual", {"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv6"]}, (REQUIRE, BOTH[::-1], BOTH[::-1])),
        ("dual", {"ipFamilyPolicy": PREFER, "ipFamilies": BOTH[::-1]}, (PREFER, BOTH[::-1], BOTH[::-1])),
        ("dual", {"ipFamilyPolicy": PREFER, "clusterIP": "fd00:10:96::9"}, (PREFER, BOTH[::-1], BOTH[::-1])),
        ("ipv4", {"ipFamilyPolicy": PREFER}, (PREFER, ["IPv4"], ["IPv4"])),
        ("ipv6", {"ipFamilyPolicy": PREFER}, (PREFER, ["IPv6"], ["IPv6"])),
        ("dual", {"clusterIP": "None", "selector": {"a": "b"}}, (SINGLE, ["IPv4"], [])),
        ("dual", {"clusterIP": "None", "selector": {"a": "b"}, "ipFamilyPolicy": PREFER}, (PREFER, BOTH, [])),
        # Headless and without selector anything goes, in any cluster (KEP-563).
        ("dual", {"clusterIP": "None"}, (REQUIRE, BOTH, [])),
        ("ipv4", {"clusterIP": "None"}, (REQUIRE, BOTH, [])),
        ("ipv4", {"clusterIP": "None", "ipFamilies": ["IPv6"], "ipFamilyPolicy": SINGLE}, (SINGLE, ["IPv6"], [])),
    ],
)
def test_what_a_service_gets(family: str, spec: Object, expected: tuple[str, list[str], list[str]]) -> None:
    assert families(make_server(family).create(SERVICES, make_service(**spec))) == expected


def test_the_default_family_is_that_of_the_first_network() -> None:
    server = make_server("dual", serviceCIDR="fd02::/112,10.9.0.0/16")
    spec = server.create(SERVICES, make_service(ipFamilyPolicy=PREFER))["spec"]
    assert spec["ipFamilies"] == ["IPv6", "IPv4"]
    assert spec["clusterIPs"][0].startswith("fd02::")
    assert spec["clusterIPs"][1].startswith("10.9.")


def test_the_api_has_one_address_of_the_primary_family(dual: Server) -> None:
    assert families(dual.get(f"{SERVICES}/kubernetes")) == (SINGLE, ["IPv4"], ["IPv4"])
    assert make_server("ipv6").get(f"{SERVICES}/kubernetes")["spec"]["clusterIP"] == "fd00:10:96::1"


def test_addresses_asked_for_are_kept(dual: Server) -> None:
    ips = ["fd00:10:96::5", "10.96.0.55"]
    spec = dual.create(SERVICES, make_service(clusterIPs=ips, ipFamilyPolicy=REQUIRE))["spec"]
    assert (spec["clusterIP"], spec["clusterIPs"], spec["ipFamilies"]) == (ips[0], ips, ["IPv6", "IPv4"])
    with pytest.raises(ApiError, match=r"failed to allocate IP fd00:10:96::5: provided IP is already allocated"):
        dual.create(SERVICES, make_service("other", clusterIP="fd00:10:96::5"))
    with pytest.raises(ApiError, match=r"The range of valid IPs is fd00:10:96::/112"):
        dual.create(SERVICES, make_service("other", clusterIP="fd00:10:97::5"))


def test_a_second_family_comes_and_goes(dual: Server) -> None:
    first = dual.create(SERVICES, make_service())["spec"]["clusterIP"]
    both = dual.patch(WEB, {"spec": {"ipFamilyPolicy": PREFER}})
    assert families(both) == (PREFER, BOTH, BOTH)
    assert both["spec"]["clusterIP"] == first
    second = both["spec"]["clusterIPs"][1]
    single = dual.patch(WEB, {"spec": {"ipFamilyPolicy": SINGLE}})
    assert families(single) == (SINGLE, ["IPv4"], ["IPv4"])
    assert single["spec"]["clusterIP"] == first
    # The second address is free again.
    dual.create(SERVICES, make_service("other", clusterIP=second))


def test_an_update_that_says_nothing_of_families_changes_none(dual: Server) -> None:
    for name, policy in (("a", PREFER), ("b", REQUIRE), ("c", SINGLE)):
        created = dual.create(SERVICES, make_service(name, ipFamilyPolicy=policy))
        assert dual.update(f"{SERVICES}/{name}", make_service(name)) == created


def test_a_type_without_addresses_has_no_families(dual: Server) -> None:
    created = dual.create(SERVICES, make_service(ipFamilyPolicy=PREFER))
    ips = created["spec"]["clusterIPs"]
    changed = dual.patch(WEB, {"spec": {"type": "ExternalName", "externalName": "example.com"}})
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & changed["spec"].keys()
    dual.create(SERVICES, make_service("heir", clusterIPs=ips, ipFamilyPolicy=PREFER))
    back = dual.patch(WEB, {"spec": {"type": "ClusterIP", "externalName": None}})
    assert families(back) == (SINGLE, ["IPv4"], ["IPv4"])


def test_a_prefer_dual_stack_service_of_one_family_stays_so(dual: Server) -> None:
    """A cluster that became dual-stack does not change Services by the way."""
    service = make_server("ipv4").create(SERVICES, make_service(ipFamilyPolicy=PREFER))
    dual.core.state.store.put("services", "default", "web", service)
    changed = dual.patch(WEB, {"metadata": {"labels": {"a": "b"}}})
    assert families(changed) == (PREFER, ["IPv4"], ["IPv4"])
    assert families(dual.patch(WEB, {"spec": {"ipFamilyPolicy": REQUIRE}})) == (REQUIRE, BOTH, BOTH)


@pytest.mark.parametrize(
    ("family", "spec", "words"),
    [
        ("dual", {"ipFamilies": BOTH}, f"must be '{REQUIRE}' or '{PREFER}' when multiple IP families are specified"),
        (
            "dual",
            {"clusterIPs": ["10.96.0.55", "fd00:10:96::5"]},
            f"must be '{REQUIRE}' or '{PREFER}' when multiple cluster IPs are specified",
        ),
        ("dual", {"ipFamilies": ["IPv5"]}, 'Unsupported value: "IPv5": supported values: "IPv4", "IPv6"'),
        ("dual", {"ipFamilies": ["IPv4", "IPv4"]}, r'spec.ipFamilies\[1\]: Duplicate value: "IPv4"'),
        ("dual", {"ipFamilyPolicy": "Both"}, f'supported values: "{PREFER}", "{REQUIRE}", "{SINGLE}"'),
        ("ipv4", {"ipFamilyPolicy": REQUIRE}, "this cluster is not configured for dual-stack services"),
        ("ipv6", {"ipFamilies": ["IPv4"]}, r'spec.ipFamilies\[0\]: Invalid value: "IPv4": not configured on this'),
        ("ipv6", {"clusterIP": "10.96.0.9"}, r"spec.clusterIPs\[0\]: .*: IPv4 is not configured on this cluster"),
        (
            "dual",
            {"ipFamilies": ["IPv6"], "clusterIP": "10.96.0.9"},
            r"expected an IPv6 value as indicated by `ipFamilies\[0\]`",
        ),
        (
            "dual",
            {"clusterIPs": ["10.96.0.8", "10.96.0.9"], "ipFamilyPolicy": PREFER},
            "may specify no more than one IP for each IP family",
        ),
        ("dual", {"clusterIPs": ["None", "10.96.0.9"]}, "'None' must be the first and only value"),
        ("dual", {"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.9"]}, "first value must match `clusterIP`"),
        ("dual", {"clusterIPs": ["10.96.0.8", "fd00:10:96::5", "fd00:10:96::6"]}, "may only hold up to 2 values"),
    ],
)
def test_what_is_refused(family: str, spec: Object, words: str) -> None:
    with pytest.raises(ApiError, match=words):
        make_server(family).create(SERVICES, make_service(**spec))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clusterIPs": ["10.96.1.1"]}, "must be 'SingleStack' to release the secondary cluster IP"),
        ({"ipFamilies": ["IPv4"]}, "must be 'SingleStack' to release the secondary IP family"),
        ({"ipFamilies": BOTH[::-1]}, "expected an IPv6 value as indicated by"),
        (
            {"clusterIPs": ["10.96.1.1", "fd00:10:96::99"]},
            r'spec.clusterIPs\[1\]: .*: \[\]string\{"10.96.1.1", "fd00:10:96::99"\}: may not change once set',
        ),
        ({"clusterIP": "10.96.1.2"}, r"spec.clusterIPs\[0\]: .* may not change once set"),
    ],
)
def test_changes_that_are_refused(dual: Server, change: Object, words: str) -> None:
    before = dual.create(SERVICES, make_service(ipFamilyPolicy=PREFER, clusterIP="10.96.1.1"))
    with pytest.raises(ApiError, match=words):
        dual.patch(WEB, {"spec": change})
    assert dual.get(WEB) == before
