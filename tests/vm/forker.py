"""Runs ``netsim-proxy`` by fork, without importing it anew: ``python -m tests.vm.forker``.

A line of standard input is an order: {"netns", "argv", "log"} starts one, and its pid is answered; {"wait": pid} is
answered by its exit status once it has ended, minus the signal's number when it was killed.
"""

import json
import os
import sys
import traceback
from typing import Any

import proxy.ipvs.plan
import proxy.ipvs.target
import proxy.kernelflows
from netsim.kernel.netns import Netns
from proxy.main import main

PRELOADED = (proxy.ipvs.plan, proxy.ipvs.target, proxy.kernelflows)  # which the program itself imports late


def run_program(order: dict[str, Any]) -> int:
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, fd in ((0, null), (1, log), (2, log)):
        os.dup2(fd, number)
    with Netns.open(order["netns"], "node-1") as ns, ns.entered():
        return main(order["argv"])


def start(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = run_program(order)
    except BaseException:  # nothing of it may go on in this copy of the loop below
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        print(wait(asked["wait"]) if "wait" in asked else start(asked), flush=True)
