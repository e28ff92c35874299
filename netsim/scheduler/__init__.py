"""The scheduler: filter the nodes, score those left, bind the pod to one.

Owns the choice of a node for each pod. May import netsim.client and netsim.model. Must never touch the kernel or the
store; all modules but ``component`` see no client, clock or randomness.
"""
