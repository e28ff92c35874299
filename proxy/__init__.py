"""The kube-proxy: Services and EndpointSlices become a service map, the service map becomes rules on every node.

May import `netsim.client`, `netsim.kernel`, `netsim.ruleset`, `netsim.model`. The modules that plan (`servicemap`,
`topology`, `addresses`, `config`, `staleflows`, `iptables.plan`) must never see the kernel, a socket, a clock or a
random number.
"""
