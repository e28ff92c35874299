"""Composition: a topology in, a running cluster out.

Owns the cluster process, its state directory, the node network, and the handle by which CLI, tests and Python reach it.
May import every package below; must never hold a rule of Kubernetes of its own: those live in the components.
"""
