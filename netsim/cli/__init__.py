"""The command line: what a person types, and what scripts read with ``-o json``.

Owns click commands, one file for each noun, and how results, progress and errors look. May import everything below;
heavy modules are imported inside the commands that need them, so that ``--help`` and completion are instant. Must
never do what ``netsim.cluster.handle`` does not offer to Python too.
"""
