"""A capture of two places beside two tcpdumps: what each loses of the same load, and what it costs.

The load: datagrams of 100 bytes over a veth pair, sent at a rate, so that both captures have the same to do; both ends
are captured, so every datagram is two packets. What the kernel dropped is by its own count.
"""

import re
import resource
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from multiprocessing import Process
from pathlib import Path

from netsim.kernel.bpf import keep_all
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl, new_address, new_veth, set_link
from netsim.observe.capture import Capture, open_station
from netsim.observe.sinks import FileSink
from netsim.testing.waiting import wait_until
from tests.bench.figures import show

SECONDS = 3.0
RATES = (20_000, 50_000, 100_000)  # datagrams a second
PAYLOAD = b"x" * 100
BATCH = 50


def connect(left: Netns, right: Netns) -> None:
    with Rtnl(left) as rtnl, Rtnl(right) as far:
        rtnl.batch([new_veth("eth0", peer="eth0", peer_netns_fd=right.fd)])
        for one, address in ((rtnl, "10.9.9.1/24"), (far, "10.9.9.2/24")):
            one.batch([set_link("eth0", up=True)])
            link = one.link("eth0")
            if link is not None:
                one.batch([new_address(address, link.ifindex)])
        wait_until("the link", lambda: (link := rtnl.link("eth0")) is not None and link.running)


def send(ns: Netns, rate: int) -> int:
    """Datagrams at that rate, for a while; how many there were."""
    sent = 0
    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("10.9.9.2", 9))
        started = time.perf_counter()
        while (now := time.perf_counter() - started) < SECONDS:
            for _ in range(min(BATCH, int(now * rate) - sent)):
                try:
                    sock.send(PAYLOAD)
                except ConnectionRefusedError:  # nobody listens there, which is no matter
                    sock.send(PAYLOAD)
                sent += 1
    return sent


def start_ours(places: list[Netns], path: Path) -> Process:
    def work() -> None:
        started = time.process_time()
        stations = [
            open_station(ns, ns.name, netns=ns.name, interface="eth0", program=keep_all(262144), taps=len(places))
            for ns in places
        ]
        capture = Capture(stations, FileSink(str(path), application="bench", snaplen=262144))
        signal.signal(signal.SIGINT, lambda *_: capture.stop())
        Path(f"{path}.ready").touch()
        totals = capture.run()
        used = time.process_time() - started
        Path(f"{path}.result").write_text(f"{totals.packets} {totals.dropped} {used}")

    process = Process(target=work)
    process.start()
    wait_until("the capture", lambda: Path(f"{path}.ready").exists())
    return process


def measure_ours(left: Netns, right: Netns, rate: int, folder: Path) -> tuple[int, int, int, float]:
    """Sent, captured, dropped, and seconds of processor time."""
    path = folder / f"ours-{rate}"
    process = start_ours([left, right], path)
    sent = send(left, rate)
    if process.pid is not None:
        subprocess.run(["kill", "-INT", str(process.pid)], check=True)
    process.join()
    packets, dropped, used = Path(f"{path}.result").read_text().split()
    return sent, int(packets), int(dropped), float(used)


def measure_tcpdump(left: Netns, right: Netns, rate: int, folder: Path) -> tuple[int, int, int, float]:
    """The same of two tcpdumps, with the same buffer."""
    running = []
    before = sum(_children())
    for ns in (left, right):
        with ns.entered():
            argv = ["tcpdump", "-Z", "root", "-i", "eth0", "-B", "16384", "-n", "-w", str(folder / f"{ns.name}-{rate}")]
            running.append(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True))
    for process in running:
        while "listening" not in (process.stderr.readline() if process.stderr else "listening"):
            pass
    sent = send(left, rate)
    packets = dropped = 0
    for process in running:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        packets += int(re.search(r"(\d+) packets? captured", said)[1])  # type: ignore[index]
        dropped += int(re.search(r"(\d+) packets? dropped by kernel", said)[1])  # type: ignore[index]
    return sent, packets, dropped, sum(_children()) - before


def _children() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime, used.ru_stime


def main() -> None:
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        left, right = (stack.enter_context(Netns.create(name)) for name in ("left", "right"))
        connect(left, right)
        for rate in RATES:
            sent, packets, dropped, used = measure_ours(left, right, rate, Path(folder))
            beside = measure_tcpdump(left, right, rate, Path(folder))
            name = f"capture, {2 * sent / SECONDS / 1000:.0f} thousand packets/s:"
            show(f"{name} lost", 100 * dropped / (packets + dropped), "%")
            show(f"{name} lost by tcpdump", 100 * beside[2] / (beside[1] + beside[2]), "%")
            floor = 1e6 * beside[3] / max(1, beside[1])
            show(f"{name} a packet", 1e6 * used / max(1, packets), "us", floor=floor, floor_name="tcpdump")


if __name__ == "__main__":
    main()
