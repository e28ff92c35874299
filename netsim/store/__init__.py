"""The store: an append-only, revisioned, watchable key space of API objects.

Owns the revision counter, the current state and the history behind watches. May import netsim.model and the standard
library. Must never know what a kind means, default, validate, or mutate an object after it was handed out.
"""
