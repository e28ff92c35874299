"""Pod life: sandboxes, containers, probes, status; one component plays the kubelet of every node of a cluster.

Owns pods from the moment they are bound. May import cni, client, kernel and model; never the
API server or another component.
Planning modules (planner, status, images, environment, probes, files) see no kernel, socket, clock or randomness.
"""
