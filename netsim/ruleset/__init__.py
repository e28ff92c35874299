"""Rules as data: what netsim writes into the kernel and what the kernel says back, parsed and rendered.

May import `netsim.model` only. Must never touch the kernel, start a process, or decide which rules there should be.
"""
