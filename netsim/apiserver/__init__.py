"""The Kubernetes API: kinds, defaults, validation, patch, allocation, watch, and HTTP around it.

Owns every write to the store. May import netsim.model, netsim.store and netsim.client.transport; aiohttp only in
``http``.
Must never act on what an object says (that is the components' work), nor mutate an object it handed out.
"""
