"""What is particular to each kind: defaults, validation, allocation, what an update may change, table columns.

Owns one Strategy for each kind. May import the rest of netsim.apiserver but ``core`` and ``http``. Must never write
to the store.
"""
