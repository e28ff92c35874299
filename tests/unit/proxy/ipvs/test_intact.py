"""What the check for things that somebody else took away sees."""

from netsim.ruleset.ipvs import RealServer, RealState, ServerKey
from proxy.ipvs import intact, sets
from proxy.ipvs.plan import Existing, IpvsDialect, NodeState
from tests.unit.proxy.make import make_endpoint, make_map, make_service, make_slice, make_view

HTTP = ServerKey("tcp", "10.96.0.10", 80)
POD = RealServer("10.244.0.2", 8080)


def make_state() -> NodeState:
    objects = [make_service(), make_slice([make_endpoint("10.244.0.2")])]
    return IpvsDialect().plan_full(make_map(objects).snapshot(), make_view(), Existing()).state


def count_entries(state: NodeState) -> dict[str, int]:
    names = [item.set for item in state.uses if isinstance(item, sets.Entry)]
    return {name: names.count(name) for name in names}


def test_nothing_is_missing_from_what_was_written() -> None:
    state = make_state()
    counts = count_entries(state)
    assert intact.describe_missing(state, {"10.96.0.10", "198.51.100.7"}, counts) == ""
    assert intact.describe_missing_reals(state, HTTP, {POD: RealState(1)}) == ""


def test_an_address_of_the_dummy_that_went() -> None:
    state = make_state()
    assert intact.describe_missing(state, (), count_entries(state)) == "1 addresses"


def test_a_set_that_was_flushed_or_destroyed() -> None:
    state = make_state()
    counts = count_entries(state)
    for left in (counts | {sets.CLUSTER_IP: 0}, {name: n for name, n in counts.items() if name != sets.CLUSTER_IP}):
        assert intact.describe_missing(state, {"10.96.0.10"}, left) == "entries of KUBE-CLUSTER-IP"


def test_real_servers_that_went_or_were_switched_off() -> None:
    state = make_state()
    for reals in ({}, {POD: RealState(0)}):
        assert intact.describe_missing_reals(state, HTTP, reals) == "1 real servers of -t 10.96.0.10:80"
    assert intact.describe_missing_reals(state, HTTP, None) == "virtual server -t 10.96.0.10:80"
    other = {POD: RealState(1), RealServer("10.244.0.9", 8080): RealState(1)}  # one on its way out, or an excluded one
    assert intact.describe_missing_reals(state, HTTP, other) == ""


def test_every_virtual_server_has_its_turn() -> None:
    number = intact.SAMPLE * 2 + 7
    services = [make_service(f"s{n}", f"10.96.{n // 250}.{n % 250 + 1}") for n in range(number)]
    state = IpvsDialect().plan_full(make_map(services).snapshot(), make_view(), Existing()).state
    seen = [key for start in range(3) for key in intact.choose_sample(state, start * intact.SAMPLE)]
    assert set(seen) == set(state.servers)
    assert len(state.servers) == number
