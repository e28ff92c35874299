"""Where a packet would go, without sending it: the kernel's state read back, and a model of the kernel's own.

`read` asks the kernel, all else is pure. It may import kernel, ruleset and model. It must never see a planner, so that
it can't repeat a planner's mistake, nor `netsim.observe`'s tracing, which it is compared with.
"""
