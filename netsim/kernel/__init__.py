"""Owns Linux: namespaces, netlink, sysctls, nft, iptables, conntrack, processes, mounts, and what this
kernel can do.

May import the standard library, pyroute2 and `netsim.model`; the only package that touches the kernel.
Must never decide what the network should look like, and never act on a namespace it was not handed.
"""
