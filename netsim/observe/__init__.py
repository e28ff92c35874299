"""What the kernel does with packets: trace, explain, and the rules behind a Service.

It reads the kernel only, never what the planners intended; names of addresses are handed to it.
It sees neither client nor store.
"""
