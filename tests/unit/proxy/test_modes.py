from netsim.model.config import PROXY_MODES
from proxy.modes import MODES


def test_a_cluster_offers_what_the_proxy_has() -> None:
    assert set(PROXY_MODES) <= set(MODES)


def test_each_mode_says_its_name() -> None:
    assert {name: mode.make_dialect().name for name, mode in MODES.items()} == {name: name for name in MODES}
