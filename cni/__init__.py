"""Owns the CNI plugin: a program by the CNI spec 1.1.0 (``main``) and a library (``plugin.Plugin``).

May import the standard library, ``netsim.kernel`` and ``netsim.model``. Must never import what makes the program slow
to start (asyncio, dataclasses, click, pyroute2, scapy), never fork, and never know of the Kubernetes API.
"""
