"""The Kubernetes API from Python: transports, the typed-by-Kind Api, informer caches, work queues, events.

Owns one interface that is the same in process and over HTTP. May import netsim.model and, late, aiohttp. Must
never see the store or the API server, nor mutate an object it was handed: those are shared.
"""
