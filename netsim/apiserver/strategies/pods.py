from netsim.apiserver.strategies.base import Strategy


class PodStrategy(Strategy):
    pass
