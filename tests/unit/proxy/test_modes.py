from netsim.model.config import PROXY_MODES
from proxy.modes import MODES


def test_what_a_cluster_offers_is_what_the_proxy_has() -> None:
    assert tuple(MODES) == PROXY_MODES


def test_each_mode_says_its_name() -> None:
    assert {name: mode.make_dialect().name for name, mode in MODES.items()} == {name: name for name in MODES}
