"""Many at once, and killed at any instant: no address twice, none lost."""

import contextlib
import os
import random
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.kernel.cni.place import Failed, Place

pytestmark = pytest.mark.needs("netns")
KILLS = 40
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}


def test_fifty_programs_at_once_on_a_network_that_was_never_used(place: Place) -> None:
    config = place.config(ipMasq=True)
    started = [place.start("ADD", f"c{i}", config) for i in range(50)]
    results = [place.finish(process) for process in started]
    addresses = [r["ips"][0]["address"] for r in results]
    assert len(set(addresses)) == 50
    assert len({r["interfaces"][0]["mac"] for r in results}) == 1
    assert len(place.ports()) == 50
    for index, result in enumerate(results):
        place.call("CHECK", f"c{index}", {**config, "prevResult": result})
    for process in [place.start("DEL", f"c{i}", config) for i in range(50)]:
        place.finish(process)
    place.assert_nothing_left()


def test_a_pool_of_n_serves_exactly_n_of_2n(place: Place) -> None:
    config = place.config(ipam={"subnet": "10.1.2.0/28"})  # 13: 16 without network, broadcast and gateway
    served, refused = [], []
    for process in [place.start("ADD", f"c{i}", config) for i in range(26)]:
        try:
            served.append(place.finish(process)["ips"][0]["address"])
        except Failed as error:
            refused.append(error)
    assert (len(set(served)), len(served), len(refused)) == (13, 13, 13)
    assert {(e.code, e.error["msg"]) for e in refused} == {
        (102, "no IP addresses available in range set: 10.1.2.1-10.1.2.14")
    }
    assert len(place.ports()) == 13


def test_threads_of_one_process_share_the_store(place: Place) -> None:
    """As the kubelet calls it: in process, from worker threads."""
    for index in range(40):
        place.container(f"c{index}")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: place.call("ADD", f"c{i}"), range(40)))
        assert len({r["ips"][0]["address"] for r in results}) == 40
        list(pool.map(lambda i: place.call("DEL", f"c{i}"), range(40)))
    place.assert_nothing_left()


def test_churn_never_gives_a_living_address_twice(place: Place) -> None:
    config = place.config(ipam={"subnet": "10.1.2.0/28"})
    living: dict[str, str] = {}
    guard = threading.Lock()

    def churn(name: str) -> None:
        for _ in range(6):
            address = place.call("ADD", name, config)["ips"][0]["address"]
            with guard:
                assert address not in living.values()
                living[name] = address
            with guard:
                del living[name]
            place.call("DEL", name, config)

    names = [f"c{i}" for i in range(8)]
    for name in names:
        place.container(name)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, names))
    place.assert_nothing_left()


def kill_after(process: subprocess.Popen[bytes], delay_s: float) -> None:
    """SIGKILL after a while; a process that has ended by then is as good an outcome."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay_s)
    process.kill()
    process.communicate()


def time_of_an_add(place: Place, config: dict[str, Any]) -> float:
    begin = time.monotonic()
    place.program("ADD", "warm-up", config)
    took = time.monotonic() - begin
    place.program("DEL", "warm-up", config)
    return took


@pytest.mark.slow
def test_killed_at_any_instant_del_frees_everything(place: Place) -> None:
    """ADD and DEL are killed at random instants; after the DEL that a runtime then sends, nothing is left."""
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    moments = random.Random(seed)
    took_s = time_of_an_add(place, place.config())
    config = place.config(ipMasq=True, runtimeConfig=PORTS, egressRate=1_000_000, egressBurst=800_000)
    survivor = place.call("ADD", "survivor", place.config(ipMasq=True))
    for index in range(KILLS):
        name = f"k{index % 3}"
        kill_after(place.start("ADD", name, config), moments.uniform(took_s / 3, took_s * 1.6))
        if moments.random() < 0.5:
            kill_after(place.start("DEL", name, config), moments.uniform(took_s / 3, took_s * 1.6))
        place.program("DEL", name, config, netns=moments.choice(["", None]))
        assert place.addresses_taken() == [survivor["ips"][0]["address"].partition("/")[0]]
        assert place.records() == ["survivor~eth0"]
        assert len(place.ports()) == 1
        assert "hp-" not in place.rules()
    place.call("CHECK", "survivor", {**place.config(ipMasq=True), "prevResult": survivor})
    place.call("DEL", "survivor", config)
    place.assert_nothing_left()


@pytest.mark.slow
def test_killed_adds_in_parallel_lose_no_address(place: Place) -> None:
    """A small pool under fire: after all DELs every address of it can be had again."""
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    moments = random.Random(seed)
    config = place.config(ipam={"subnet": "10.1.2.0/29"})
    took_s = time_of_an_add(place, config)
    for _ in range(8):
        started = [place.start("ADD", f"c{i}", config) for i in range(5)]
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda p: kill_after(p, moments.uniform(0, took_s * 4)), started))
        for index in range(5):
            place.program("DEL", f"c{index}", config)
        place.assert_nothing_left()
    addresses = {place.program("ADD", f"c{i}", config)["ips"][0]["address"] for i in range(5)}
    assert len(addresses) == 5


def test_a_dead_holder_leaves_no_lock(place: Place) -> None:
    place.call("ADD")
    held = subprocess.Popen(
        ["flock", str(place.data_dir / "net" / "lock"), "sleep", "60"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        waiting = place.start("ADD", "c2", place.config())
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
    finally:
        os.killpg(held.pid, 9)
        held.wait()
    assert place.finish(waiting)["ips"][0]["address"] == "10.1.2.3/24"
