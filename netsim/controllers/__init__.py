"""The control loops: nodes, Deployments, ReplicaSets, EndpointSlices, namespaces, garbage collection.

Owns what turns specifications into other API objects. May import netsim.client and netsim.model. Must never touch the
kernel or the store; ``plan_*`` modules must see no client, clock or randomness.
"""
