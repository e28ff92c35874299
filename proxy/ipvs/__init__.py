"""The ipvs dialect: virtual servers, the dummy that holds service addresses, ipsets, and the rules that use them.

May import netsim.model, netsim.ruleset, netsim.kernel (target only) and proxy. Must never decide in `target`.
"""
