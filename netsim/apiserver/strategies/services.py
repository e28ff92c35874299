from netsim.apiserver.strategies.base import Strategy


class ServiceStrategy(Strategy):
    def __init__(self, kind, config):
        super().__init__(kind)
