"""``netsim-proxy``: a kube-proxy for the network namespace it is started in, against any Kubernetes API server."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from netsim.client.api import Api
from netsim.client.http import HttpTransport
from netsim.client.informerset import InformerSet
from netsim.client.kubeconfig import ServerAccess, read_kubeconfig, read_service_account
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.model.clock import Clock, SystemClock
from netsim.model.errors import ApiError, FeatureMissing, InputError, KernelError, NetsimError, UsageError
from netsim.model.kinds import ENDPOINT_SLICE, NODE, SERVICE
from netsim.model.objects import Object
from proxy.addresses import family_of, parse_ip
from proxy.component import NodeProxy, ProxyComponent
from proxy.config import FamilyView, NodeView, ProxyConfig, describe_gaps, expand_node_ports
from proxy.configuration import render_document
from proxy.kernelsettings import ensure_settings
from proxy.modes import MODES, raise_all
from proxy.options import Options, parse_options
from proxy.ratelimit import limit
from proxy.servicecidrs import follow_service_cidrs
from proxy.servicemap import NOT_IGNORED

log = logging.getLogger("netsim-proxy")

NODE_RETRY_S = 1.0
SAME_SIGNAL_S = 1.0  # until a signal to all processes of the program, systemd's, is here as well


class _Stopped(Exception):
    """A signal asked the program to end. The rules stay, so that traffic goes on without it, as upstream's do."""


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Exit status 0 done, 1 failed, 2 wrong usage."""
    try:
        options = parse_options(sys.argv[1:] if argv is None else argv)
        level = logging.WARNING if options.verbosity == 0 else logging.INFO if options.verbosity < 5 else logging.DEBUG
        logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
        if options.write_config_to:
            _write_config(options)
            return 0
        if not (options.cleanup or options.init_only):
            _set_oom_score(options.oom_score_adj)  # first: the programs it starts inherit it
        with Spawner.start() as spawner:  # before the event loop and any thread
            asyncio.run(_choose_work(options, spawner))
    except NetsimError as error:
        print(f"netsim-proxy: {error}", file=sys.stderr)
        return error.exit_status
    return 0


async def _choose_work(options: Options, spawner: Spawner) -> None:
    if options.cleanup:
        await clean_up(spawner)
    elif options.init_only:
        await initialise(options, spawner)
    else:
        await _run(options, spawner)


def _write_config(options: Options) -> None:
    try:
        Path(options.write_config_to).write_text(render_document(options.document), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the configuration: {error.strerror}", where=options.write_config_to) from error


async def initialise(options: Options, spawner: Spawner) -> None:
    """What needs full privileges, so that the proxy itself may run with CAP_NET_ADMIN alone. Raises KernelError."""
    netns = Netns.current(options.node_name)
    ensure_settings(netns, options.config)
    target = MODES[options.config.mode].make_target(netns, spawner, options.config)
    for family in options.config.families:
        await target.read(family)  # sets the mode's own sysctls, the first time


async def clean_up(spawner: Spawner) -> None:
    """Remove what any proxy mode ever wrote in this namespace; may be repeated.

    Raises KernelError, when all was tried.
    """
    netns = Netns.current()
    found, failures = False, list[KernelError]()
    for mode in MODES.values():
        try:
            found = await mode.clean_up(netns, spawner) or found
        except KernelError as error:
            failures.append(error)
    raise_all(failures)
    if not found:
        raise FeatureMissing("iptables", f"none of {', '.join(MODES)} works here")


async def _run(options: Options, spawner: Spawner) -> None:
    clock = SystemClock()
    transport = limit(HttpTransport(choose_access(options)), *options.request_rate, clock)
    api = Api(transport)
    # Nodes say much and often: a proxy that heard them all would cost the API server the square of their number. What
    # is not for a kube-proxy (headless Services have slices, too) is not sent to all nodes either.
    informers = InformerSet(
        api,
        clock,
        fields={NODE: f"metadata.name={options.node_name}"},
        labels={SERVICE: NOT_IGNORED, ENDPOINT_SLICE: NOT_IGNORED},
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        with contextlib.suppress(_Stopped):
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_stop_when(stop))
                    group.create_task(_fail_with(spawner, clock))
                    addresses = await _node_addresses(api, options, clock)
                    node = NodeProxy(options.node_name, Netns.current(options.node_name), addresses)
                    config = add_families(options.config, addresses)
                    warn_of_gaps(config, options.node_name, addresses)
                    component = ProxyComponent(
                        informers=informers,
                        spawner=spawner,
                        config=config,
                        clock=clock,
                        api=api,
                        nodes=[node],
                    )
                    if not _is_bound(options):
                        informers.of(NODE).add_handler(_address_follower(component, options, addresses))
                    group.create_task(informers.run())
                    group.create_task(component.run())
                    if component.mode == "nftables":
                        group.create_task(follow_service_cidrs(api, informers, clock, component.set_service_cidrs))
                    group.create_task(_take_over(component, options, spawner, clock))
            except BaseExceptionGroup as group_error:
                raise _first(group_error) from None
    finally:
        await transport.close()


def choose_access(options: Options) -> ServerAccess:
    """Where the API server is: the kubeconfig, ``--master`` before its server, else what a pod is given.

    Raises UsageError, InputError.
    """
    if options.kubeconfig:
        access = read_kubeconfig(options.kubeconfig)
        if options.master:  # the name in the certificate is that of the other server
            return replace(access, server=options.master.rstrip("/"), server_name="")
        return access
    if options.master:
        return ServerAccess(server=options.master.rstrip("/"))
    given = read_service_account(os.environ)
    if given is None:
        why = "--kubeconfig (clientConnection.kubeconfig in the file) or --master is needed outside of a pod"
        raise UsageError(why, hint="netsim-proxy --help")
    return given


def _set_oom_score(score: int) -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")
    except OSError as error:  # a user namespace may not; the proxy works without
        log.info("oom_score_adj %d: %s", score, os.strerror(error.errno or 0))


async def _stop_when(stop: asyncio.Event) -> None:
    await stop.wait()
    raise _Stopped


async def _fail_with(spawner: Spawner, clock: Clock) -> None:
    """Without the process that starts programs for it the proxy would look alive, and write nothing any more."""
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(os.pidfd_open(spawner.pid), gone.set)
    await gone.wait()
    await clock.sleep(SAME_SIGNAL_S)
    hint = "start netsim-proxy again; the kernel's log says whether memory ran out"
    raise NetsimError("the process that starts programs for the proxy has ended", hint=hint)


async def _take_over(component: ProxyComponent, options: Options, spawner: Spawner, clock: Clock) -> None:
    """Say when the rules are there, and only then remove what another mode left, which upstream does first."""
    node, ready = options.node_name, False
    while not ready:
        try:
            await component.node_ready(node)
            ready = True
        except NetsimError as error:  # the component tries again; until then the old rules serve
            log.warning("%s", error)
            await clock.sleep(options.config.sync_period_s)
    log.info("%s: the rules of %d service ports are in place", node, component.summary()["servicePorts"])
    netns = Netns.current(node)
    for name, mode in MODES.items():
        if name != component.mode:
            try:
                await mode.clean_up(netns, spawner)
            except (NetsimError, OSError) as error:  # the proxy's own rules are good, and others' are no reason to end
                log.warning("removing what mode %s left: %s", name, error)


async def _node_addresses(api: Api, options: Options, clock: Clock) -> tuple[str, ...]:
    """The node's addresses: --bind-address and the Node object's, waiting for that to be there if it is needed."""
    if _is_bound(options):
        return (options.node_ip,)
    said = ""
    while True:
        try:
            addresses = choose_addresses(options, await api.get(NODE, options.node_name))
            if addresses:
                return addresses
            problem = f'nodes "{options.node_name}" has no addresses yet'
        except ApiError as error:
            if error.code in (401, 403):
                raise
            problem = error.message
        if problem != said:
            log.warning("waiting for the Node: %s", problem)
            said = problem
        await clock.sleep(NODE_RETRY_S)


def _is_bound(options: Options) -> bool:
    """Whether --bind-address says all there is to know of the node's addresses."""
    return bool(options.node_ip) and {family_of(options.node_ip)} >= set(options.config.families)


def add_families(config: ProxyConfig, addresses: tuple[str, ...]) -> ProxyConfig:
    """``config`` with the families of the node's addresses beside its own.

    Upstream always serves both where the node can have both; a clusterCIDR may be of one, or not given at all.
    """
    return replace(config, families=tuple(sorted({*config.families, *map(family_of, addresses)})))


def warn_of_gaps(config: ProxyConfig, name: str, addresses: tuple[str, ...]) -> None:
    """Say what the options leave open, which somebody may not have meant."""
    for family in config.families:
        view = FamilyView(expand_node_ports(config, addresses), NodeView(name, addresses), family)
        for words in describe_gaps(view):
            log.warning("IPv%d: %s", family, words)


def choose_addresses(options: Options, node: Object) -> tuple[str, ...]:
    """A Node's addresses; --bind-address goes before those of its family (detectNodeIPs, server.go)."""
    found, bound = read_addresses(node), options.node_ip
    if not bound:
        return found
    return (bound, *(ip for ip in found if family_of(ip) != family_of(bound)))


def _address_follower(
    component: ProxyComponent, options: Options, addresses: tuple[str, ...]
) -> Callable[[Object | None, Object | None], None]:
    """Takes the Node's new addresses over. Upstream's ends then, and trusts that somebody starts it again (node.go).

    A Node that is gone or has none for a while, as when it registers anew, is no reason to forget what it had.
    """
    known, name = addresses, options.node_name

    def follow(_old: Object | None, new: Object | None) -> None:
        nonlocal known
        if new is None or new["metadata"]["name"] != name:
            return
        now = choose_addresses(options, new)
        if now and now != known:
            log.info("%s: addresses %s, before: %s", name, ", ".join(now), ", ".join(known))
            known = now
            component.set_addresses(name, now)

    return follow


def read_addresses(node: Object) -> tuple[str, ...]:
    """A Node's addresses, InternalIP before ExternalIP, as upstream's GetNodeHostIPs (pkg/util/node/node.go)."""
    listed = (node.get("status") or {}).get("addresses") or ()
    found = [
        parse_ip(item.get("address") or "")
        for kind in ("InternalIP", "ExternalIP")
        for item in listed
        if item.get("type") == kind
    ]
    return tuple(ip for ip in found if ip is not None)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the program: the first that is no mere end."""
    stopped = group.subgroup(_Stopped)
    rest = group.subgroup(lambda error: not isinstance(error, _Stopped))
    error: BaseException = (rest or stopped or group).exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    sys.exit(main())
