"""The iptables dialect: kube-proxy's own chains, names, order and comments.

`names`, `blocks` and `plan` decide (pure: may import `netsim.ruleset`, `proxy`'s planning modules), `target` acts
through `netsim.kernel`. Must never read rules back to learn what it wrote itself.
"""
