"""The proxies' options in a cluster that netsim made."""

from netsim.model.config import parse_config
from proxy.config import make_proxy_config


def test_the_topology_says_how_ipvs_chooses_and_answers_arp() -> None:
    config = make_proxy_config(parse_config({"proxyMode": "ipvs", "ipvs": {"scheduler": "sh", "strictARP": True}}))
    assert (config.mode, config.ipvs_scheduler, config.ipvs_strict_arp) == ("ipvs", "sh", True)
