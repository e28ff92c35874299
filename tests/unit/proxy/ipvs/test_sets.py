"""Names of ipsets."""

import pytest

from proxy.ipvs.sets import NAME_MAX_BYTES, TYPES, set_name


@pytest.mark.parametrize("family", [4, 6])
def test_every_name_fits_the_kernel_and_none_meets_another(family: int) -> None:
    names = {set_name(name, family) for name in TYPES}
    assert len(names) == len(TYPES)
    assert max(map(len, names)) <= NAME_MAX_BYTES


def test_long_names_are_cut_off_as_upstream_does() -> None:
    assert set_name("KUBE-LOAD-BALANCER-SOURCE-CIDR", 6) == "KUBE-6-LOAD-BALANCER-SOURCE-CID"
    assert set_name("KUBE-LOAD-BALANCER-SOURCE-CIDR", 4) == "KUBE-LOAD-BALANCER-SOURCE-CIDR"
