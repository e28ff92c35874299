"""Whether a proxy, and a load balancer's backends on its node, are well; and the HTTP servers that say so.

`proxyhealth` and `servicehealth` decide (pure: time is an argument), `node` gathers what one node's syncs report,
`servers` opens sockets in the node's namespace. May import `proxy`'s planning modules, `netsim.kernel.netns` and
aiohttp (late). Must never write rules.
"""
