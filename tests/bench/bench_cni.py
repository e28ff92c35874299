"""One ADD and one DEL of the CNI plugin, in process and as a program, beside what the kernel and Python alone take."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from cni.plugin import Plugin
from cni.types import Request
from netsim.kernel.netns import Netns
from tests.bench.figures import measure_s, show
from tests.bench.floor import ip_batch_s

PROGRAM = str(Path(sys.executable).parent / "netsim-cni")
CONTAINERS = 100
PARALLEL = 50


def config(data_dir: str, **keys: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "subnet": "10.1.0.0/16", "dataDir": data_dir}
    base = {"cniVersion": "1.1.0", "name": "bench", "bridge": "cni0", "isGateway": True, "isDefaultGateway": True}
    return {**base, "hairpinMode": True, "ipam": ipam, **keys}


def floor_ms() -> float:
    """Making a veth pair on a bridge, by `ip -batch`: the node's half of an ADD."""
    namespaces = [f"netns add p{i}" for i in range(CONTAINERS)] + ["link add b0 type bridge", "link set b0 up"]
    links = []
    for i in range(CONTAINERS):
        links += [
            f"link add v{i} type veth peer name eth0 netns p{i}",
            f"link set v{i} master b0 up",
            f"link set v{i} type bridge_slave hairpin on",
        ]
    return ip_batch_s(links, before=namespaces) / CONTAINERS * 1000


class Bench:
    """A node with containers, and a configuration."""

    def __init__(self, conf: dict[str, Any]) -> None:
        self.node = Netns.create("node")
        self.containers = [Netns.create(f"c{i}") for i in range(CONTAINERS)]
        self.conf = conf

    def close(self) -> None:
        for ns in (self.node, *self.containers):
            ns.close()

    def request(self, command: str, index: int) -> Request:
        path = f"/proc/{os.getpid()}/fd/{self.containers[index].fd}"
        return Request(command, f"c{index}", path, "eth0", "", self.conf)

    def in_process_ms(self, operation: Callable[[Request], object], command: str) -> float:
        spent = []
        with self.node.entered():
            for index in range(CONTAINERS):
                request = self.request(command, index)
                started = time.perf_counter()
                operation(request)
                spent.append(time.perf_counter() - started)
        return median(spent) * 1000

    def start(self, command: str, index: int) -> subprocess.Popen[bytes]:
        request = self.request(command, index)
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": request.container_id,
            "CNI_NETNS": request.netns,
            "CNI_IFNAME": "eth0",
        }
        process = subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.conf).encode())
        process.stdin.close()
        return process

    def program_ms(self, command: str, times: int) -> float:
        spent = []
        with self.node.entered():
            for index in range(times):
                started = time.perf_counter()
                if self.start(command, index).wait():
                    sys.exit(f"{command} failed")
                spent.append(time.perf_counter() - started)
        return median(spent) * 1000

    def parallel_ms(self, command: str, times: int) -> float:
        with self.node.entered():
            started = time.perf_counter()
            processes = [self.start(command, i) for i in range(times)]
            if sum(process.wait() for process in processes):
                sys.exit(f"a parallel {command} failed")
            return (time.perf_counter() - started) * 1000


def main() -> None:
    veth = floor_ms()
    python = measure_s(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 15) * 1000
    for title, keys in (("", {}), (" with ipMasq", {"ipMasq": True})):
        with tempfile.TemporaryDirectory() as data_dir:
            bench = Bench(config(data_dir, **keys))
            plugin = Plugin()
            add = bench.in_process_ms(plugin.add, "ADD")
            show(f"cni ADD in process{title}", add, "ms", floor=veth, floor_name="ip -batch", goal="< 4 ms")
            show(f"cni DEL in process{title}", bench.in_process_ms(plugin.delete, "DEL"), "ms")
            add = bench.program_ms("ADD", 20)
            show(f"cni ADD as a program{title}", add, "ms", floor=python, floor_name="python -c pass", goal="< 60 ms")
            show(f"cni DEL as a program{title}", bench.program_ms("DEL", 20), "ms")
            show(f"cni {PARALLEL} ADDs as programs at once{title}", bench.parallel_ms("ADD", PARALLEL), "ms")
            bench.close()


if __name__ == "__main__":
    main()
