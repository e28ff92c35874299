"""The Kubernetes API from Python: one interface, in process or over HTTP; informers and work queues.

Owns transports, Api, Informer, WorkQueue and Controller. May import netsim.model and netsim.kernel. Must never know how the
API server works, nor mutate an object it handed out.
"""
