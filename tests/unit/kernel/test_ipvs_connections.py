"""What the kernel writes about the connections IPVS balances (ip_vs_conn_seq_show), read."""

from netsim.kernel.ipvs_connections import parse_connections

TEXT = """Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0AF40003 90C5 0A600101 0050 0AF40102 1F90 ESTABLISHED     899
UDP [fd00:0010:0244:0000:0000:0000:0000:0003] 90C5 [fd00:0010:0096:0000:0000:0000:0000:000a] 0035 \
[fd00:0010:0244:0001:0000:0000:0000:0002] 1F91 UDP              61
"""


def test_connections_of_both_families() -> None:
    first, second = parse_connections(TEXT.splitlines())
    assert first.client == ("10.244.0.3", 37061)
    assert (first.virtual, first.real) == (("10.96.1.1", 80), ("10.244.1.2", 8080))
    assert str(first) == "TCP 14:59  ESTABLISHED 10.244.0.3:37061 10.96.1.1:80 10.244.1.2:8080"
    assert str(second).endswith("[fd00:10:244::3]:37061 [fd00:10:96::a]:53 [fd00:10:244:1::2]:8081")


def test_no_connections() -> None:
    assert (
        list(parse_connections(["Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData"]))
        == []
    )
