"""The nftables dialect: services as elements of maps, one chain for each number of endpoints.

`skeleton`, `chains`, `blocks` and `plan` decide (pure: may import `netsim.ruleset` and `proxy`'s planning modules),
`target` acts through `netsim.kernel`. Must never read elements back, nor touch a table other than ``kube-proxy``.
"""
