"""The same control loops in another process: only a unix socket lies between them and the API server."""

import asyncio
import socket
from pathlib import Path

from netsim.apiserver.core import ApiServer
from netsim.apiserver.http import serve
from netsim.client.api import Api
from netsim.client.http import HttpTransport
from netsim.client.informerset import InformerSet
from netsim.controllers.manager import make_controllers
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.kinds import DEPLOYMENT, ENDPOINT_SLICE, NODE, POD, SERVICE
from netsim.model.objects import Object
from netsim.scheduler.component import make_scheduler
from netsim.store.store import Store
from tests.control_plane import make_workload_spec


def test_a_deployment_behind_a_service_over_http(tmp_path: Path) -> None:
    async def main() -> None:
        clock, config = SystemClock(), ClusterConfig()
        server = ApiServer(Store(), config, clock)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "api.sock"))
        listener.listen()
        runner = await serve(server, unix_socket=listener, tcp_socket=None, tls=None)
        api = Api(HttpTransport.from_unix_socket(tmp_path / "api.sock"))
        informers = InformerSet(api, clock)
        parts = [informers, *make_controllers(api, informers, config, clock), *make_scheduler(api, informers, clock)]
        bound, sliced = asyncio.Event(), asyncio.Event()
        pods = informers.of(POD)

        def look(old: Object | None, new: Object | None) -> None:
            if sum(1 for pod in pods.items() if pod["spec"].get("nodeName") == "a") == 3:
                bound.set()

        pods.add_handler(look)
        informers.of(ENDPOINT_SLICE).add_handler(lambda old, new: sliced.set())
        tasks = [asyncio.create_task(part.run()) for part in parts]
        try:
            async with asyncio.timeout(20):
                await api.create(NODE, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})
                metadata = {"name": "web", "namespace": "default"}
                service = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
                await api.create(
                    SERVICE, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service}
                )
                spec = make_workload_spec(3)
                await api.create(
                    DEPLOYMENT, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
                )
                await bound.wait()
                await sliced.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await api.close()
            await runner.close()

    asyncio.run(main())
