"""A program of its own, run inside a place: it opens connections and prints as JSON how long each took.

Standard library only, for the interpreter is started there with -I -S and sees nothing else. Its argument is JSON:
targets ([address, port] each, taken in turn), count, parallel, mode (connect, http, udp), timeout_s.
"""

import json
import socket
import sys
import threading
import time
from typing import Any

_REQUEST = b"GET / HTTP/1.0\r\nHost: netsim\r\n\r\n"
_DATAGRAM = b"echo netsim"


def measure_ms(target: tuple[str, int], mode: str, timeout_s: float) -> float:
    """One connection or exchange, in milliseconds. Raises OSError."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    kind = socket.SOCK_DGRAM if mode == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as sock:
        sock.settimeout(timeout_s)
        started = time.perf_counter()
        sock.connect(target)
        if mode == "udp":
            sock.send(_DATAGRAM)
            sock.recv(65536)
        elif mode == "http":
            sock.sendall(_REQUEST)
            received = 0
            while part := sock.recv(65536):
                received += len(part)
            if not received:
                raise ConnectionResetError("closed without an answer")
        return (time.perf_counter() - started) * 1000


def _work(plan: dict[str, Any], numbers: Any, samples: list[float], errors: dict[str, int], lock: Any) -> None:
    targets = [(address, port) for address, port in plan["targets"]]
    while True:
        with lock:
            number = next(numbers, None)
        if number is None:
            return
        try:
            took = measure_ms(targets[number % len(targets)], plan["mode"], plan["timeout_s"])
        except OSError as error:
            words = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
            with lock:
                errors[words] = errors.get(words, 0) + 1
        else:
            samples.append(took)


def main() -> None:
    plan = json.loads(sys.argv[1])
    numbers, samples, errors, lock = iter(range(plan["count"])), [], {}, threading.Lock()  # type: ignore[var-annotated]
    threads = [
        threading.Thread(target=_work, args=(plan, numbers, samples, errors, lock)) for _ in range(plan["parallel"])
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - started
    print(json.dumps({"samplesMs": samples, "errors": errors, "elapsedS": elapsed_s}))


if __name__ == "__main__":
    main()
