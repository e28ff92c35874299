"""`up` with three nodes: from the call to a ready cluster, in Python and on the command line."""

import subprocess
import sys
import tempfile
from pathlib import Path

import netsim
from tests.bench.figures import measure_s, show
from tests.bench.floor import ip_batch_s, make_nodes

TIMES = 7


def main() -> None:
    with tempfile.TemporaryDirectory() as state:
        spent = []

        def up_and_down() -> None:
            spent.append(measure_s(lambda: clusters.append(netsim.up("bench", nodes=3, state_dir=state)), 1))
            clusters.pop().down()

        clusters: list[netsim.cluster.handle.Cluster] = []
        for _ in range(TIMES):
            up_and_down()
        floor = measure_s(lambda: ip_batch_s(make_nodes(3)), 3)
        show(
            "up, 3 nodes (netsim.up)", sorted(spent)[TIMES // 2], "s", floor=floor, floor_name="ip -batch", goal="< 1 s"
        )

        program = str(Path(sys.executable).parent / "netsim")
        environment = {"NETSIM_STATE_DIR": state, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        spent = []
        for _ in range(3):
            run = [program, "up", "bench", "--nodes", "3"]
            spent.append(
                measure_s(lambda run=run: subprocess.run(run, env=environment, check=True, capture_output=True), 1)
            )
            subprocess.run([program, "down", "bench"], env=environment, check=True, capture_output=True)
        show("up, 3 nodes (netsim up, the whole command)", sorted(spent)[1], "s", goal="< 1 s")


if __name__ == "__main__":
    main()
