from netsim.observe.spread import Spread


def render_html(spread: Spread) -> str:
    return ""
