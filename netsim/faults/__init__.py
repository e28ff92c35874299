"""Owns faults made on purpose: what they are, what each means in the kernel, when they end, and how they are undone.
May import kernel, ruleset and model; what only the cluster knows (places, pods' and nodes' lives) is handed in.
Never touches a rule, qdisc or link that is not its own fault's, and never decides and acts in one function.
"""
