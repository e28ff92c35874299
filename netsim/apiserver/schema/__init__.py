"""The known fields of the known kinds, as data.

Owns the type tables and what is derived from them: type checks, strict decoding, OpenAPI, patch merge keys. May import
netsim.model. Must never hold a rule about values: those are the strategies'.
"""
