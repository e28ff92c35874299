"""Patches: merge (RFC 7386), JSON (RFC 6902) and strategic merge.

Owns the three functions from a document and a patch to a new document. May import netsim.apiserver.schema. Must never
change its arguments: results share what did not change with the document.
"""
