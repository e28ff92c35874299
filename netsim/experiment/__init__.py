"""Experiments: one file of steps and expectations, run for every combination of a matrix, each in a cluster of its own.

Owns the file's form, running it, and its report; and `diff`, which compares two clusters. May import netsim.cluster
(the handle), netsim.observe and what is below. Must never touch the kernel or a cluster's insides: it uses the handle.
"""
