"""A node and containers in throw-away namespaces, and the plugin called in both ways: as a program and in process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni.plugin import Plugin
from cni.types import CniError, Request
from netsim.kernel.netns import Netns
from netsim.kernel.nft import Nft
from netsim.kernel.rtnl import Rtnl
from netsim.kernel.rtnl_read import Link

PROGRAM = str(Path(sys.executable).parent / "netsim-cni")


class Failed(Exception):
    """The plugin answered with an error object."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['msg']} {error.get('details', '')}")
        self.code: int = error["code"]
        self.error = error


class Place:
    """One node. Everything the plugin keeps lies in ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self.node = Netns.create("node", ipv6=True)
        self.data_dir = data_dir
        self._containers: dict[str, Netns] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            process.wait()
        for ns in (self.node, *self._containers.values()):
            ns.close()

    def container(self, name: str) -> Netns:
        if name not in self._containers:
            self._containers[name] = Netns.create(name)
        return self._containers[name]

    def end_container(self, name: str) -> None:
        """The namespace goes, as when the container has died."""
        self._containers.pop(name).close()

    def netns_path(self, name: str) -> str:
        return f"/proc/{os.getpid()}/fd/{self.container(name).fd}"

    def config(self, **keys: Any) -> dict[str, Any]:
        """A bridge network as people have it; ``ipam`` keys are merged, others replaced."""
        ipam = {
            "type": "host-local",
            "subnet": "10.1.2.0/24",
            "dataDir": str(self.data_dir),
            **keys.pop("ipam", {}),
        }
        base = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "cni0", "isGateway": True}
        return {**base, "isDefaultGateway": True, "ipam": ipam, **keys}

    # -- the two ways of calling

    def environment(self, command: str, name: str, ifname: str, netns: str | None, args: str) -> dict[str, str]:
        path = self.netns_path(name) if netns is None else netns
        return {
            "PATH": os.environ.get("PATH", ""),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": name,
            "CNI_NETNS": path,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": "/opt/cni/bin",
        }

    def start(
        self, command: str, name: str, config: Any, ifname: str = "eth0", netns: str | None = None, args: str = ""
    ) -> subprocess.Popen[bytes]:
        """The program, started in the node's namespace and given its configuration."""
        environment = self.environment(command, name, ifname, netns, args)
        with self.node.entered():
            process = subprocess.Popen(
                [PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
        self._processes.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(config).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        out, err = process.communicate(timeout=30)
        assert err == b"", err.decode()
        if process.returncode:
            raise Failed(json.loads(out))
        return dict(json.loads(out)) if out else {}

    def program(self, command: str, name: str = "c1", config: Any = None, **how: Any) -> dict[str, Any]:
        """One operation as a process."""
        return self.finish(self.start(command, name, self.config() if config is None else config, **how))

    def call(
        self,
        command: str,
        name: str = "c1",
        config: Any = None,
        ifname: str = "eth0",
        netns: str | None = None,
        args: str = "",
    ) -> dict[str, Any]:
        """One operation in process, with the answer that the program would print."""
        config = self.config() if config is None else config
        request = Request(command, name, self.netns_path(name) if netns is None else netns, ifname, args, config)
        plugin = Plugin()
        operations: dict[str, Callable[[Request], None]] = {
            "DEL": plugin.delete,
            "CHECK": plugin.check,
            "GC": plugin.gc,
            "STATUS": plugin.status,
        }
        with self.node.entered():
            try:
                if command == "ADD":
                    return plugin.add(request).render(config["cniVersion"])
                operations[command](request)
            except CniError as error:
                raise Failed(error.to_json(config["cniVersion"])) from error
        return {}

    # -- looking

    def addresses_taken(self, network: str = "net") -> list[str]:
        directory = self.data_dir / network
        return sorted(p.name for p in directory.glob("*.*.*.*") if p.is_file()) if directory.exists() else []

    def records(self, network: str = "net") -> list[str]:
        directory = self.data_dir / network / ".attachments"
        return sorted(p.name for p in directory.iterdir() if p.name != ".complete") if directory.exists() else []

    def links(self) -> list[str]:
        with Rtnl(self.node) as rtnl:
            return sorted(link.name for link in rtnl.links())

    def ports(self) -> list[str]:
        return [name for name in self.links() if name.startswith(("veth", "ifb"))]

    def rules(self) -> str:
        with Nft(self.node) as nft:
            return nft.run("list ruleset\n")

    def assert_nothing_left(self, network: str = "net") -> None:
        """No address, record, link or element of any container; bridge, lock and the table's skeleton stay."""
        assert self.addresses_taken(network) == []
        assert self.records(network) == []
        assert self.ports() == []
        rules = self.rules()
        assert "elements" not in rules, rules
        assert "hp-" not in rules, rules


def link(ns: Netns, name: str) -> Link:
    with Rtnl(ns) as rtnl:
        found = rtnl.link(name)
    assert found is not None, f"no {name}"
    return found


def refusal(place: Place, command: str, name: str = "c1", config: Any = None, **how: Any) -> Failed:
    with pytest.raises(Failed) as failure:
        place.call(command, name, config, **how)
    return failure.value
