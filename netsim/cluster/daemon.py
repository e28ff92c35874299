"""The cluster process from its first instruction: into the sandbox, fork the helpers, then load the world.

The order matters. The outer process makes the namespaces, forks their init, writes down its pid, and is gone. The init
forks the spawner and the responder while it is still small and single-threaded, and only then imports the libraries.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from netsim.cluster.launch import Launch
from netsim.cluster.report import Report
from netsim.cluster.state import StateDir, explain_os_error
from netsim.kernel import sandbox
from netsim.model.errors import NetsimError


def main() -> None:
    """Entry point of ``python -m netsim.cluster.daemon``; its orders come on standard input."""
    orders = Launch(**json.load(sys.stdin))
    state = StateDir(Path(orders.state_dir))
    report = Report(orders.report_fd, state.remove_own)
    try:
        sandbox.unshare_sandbox()
        go_read, go_write = os.pipe()
        pid = os.fork()  # the child is the init of the new PID namespace
        if pid != 0:
            state.write_status({"name": state.name, "pid": pid, "phase": "starting"})
            os.write(go_write, b"g")
            os._exit(0)
        os.close(go_write)
        # Only go on once the pid is written down: a launcher that gives up must find whom to stop.
        if os.read(go_read, 1) != b"g":
            os._exit(1)
        os.close(go_read)
        _be_init(orders, state, report)
    except NetsimError as error:
        report.error(error)
        sys.exit(1)
    except OSError as error:
        report.error(explain_os_error(error, state.path))  # first: what is full may be the disk that has the log
        traceback.print_exc()
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _be_init(orders: Launch, state: StateDir, report: Report) -> None:
    sandbox.enter_init(state.name, state.path)
    for descriptor in (
        orders.lock_fd,
        orders.api_fd,
        orders.tcp_fd,
        orders.control_fd,
        orders.report_fd,
        orders.owner_fd,
    ):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    report.progress("sandbox entered")

    # Small imports only, until both are forked: what is loaded here is copied into them.
    from netsim.kernel.process import Spawner
    from netsim.kubelet.responder import Responder

    spawner = Spawner.start()
    responder = Responder.start()

    from netsim.cluster.runtime import run_cluster

    run_cluster(orders, state, report, spawner, responder)


if __name__ == "__main__":
    main()
