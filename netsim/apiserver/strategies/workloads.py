from netsim.apiserver.strategies.base import Strategy


class DeploymentStrategy(Strategy):
    pass


class ReplicaSetStrategy(Strategy):
    pass
