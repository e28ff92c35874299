"""Cluster DNS: names of Services and pods, answered from the API's Services and EndpointSlices.

Owns ``records`` (pure: question to answer), ``server`` (UDP and TCP), ``component`` and the add-on's own
objects. May import ``netsim.client`` and what is below it. Must never ask a name server outside the cluster,
or the machine's.
"""
