"""Packet-level tests of Kubernetes networks: the pytest plugin, senders and sniffers, and plain sockets in pods.

May import netsim.cluster and, in ``packets`` alone, scapy. Must never fork, never enter a namespace (sockets come
from the cluster, ready-made), and never load scapy or a cluster before a test asks for one.
"""
