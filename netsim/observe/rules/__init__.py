"""The rules that serve one Service on one node: ``netsim rules``.

`read` asks the kernel, the rest is pure. It knows no planner and no name that one gives: addresses and ports are
handed in, and what serves them is found by following rules.
"""
