"""Owns the choice of addresses and the store that remembers them, as host-local does.

``ranges`` and ``allocator`` decide (pure), ``store`` keeps files. May import ``cni.types`` and ``netsim.model``.
Must never touch a network namespace.
"""
