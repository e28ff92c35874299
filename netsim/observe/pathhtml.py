"""A path as one HTML page that needs nothing else: the places drawn, the packet's way on them, rules beside it. Pure.

The page is `path.html`, beside this file, with the paths put in as JSON; it has no reference to anything outside.
"""

import json
from importlib.resources import files

from netsim.observe.pathjson import render_spread
from netsim.observe.spread import Spread

_SLOT = "/*NETSIM-DATA*/null"
_TITLE = "<!--NETSIM-TITLE-->"


def render_html(spread: Spread) -> str:
    """The page. Raises nothing for an empty spread: the page then says that there is nothing."""
    data = json.dumps(render_spread(spread), ensure_ascii=False, separators=(",", ":"))
    # JSON in a script element: "</script>" in a rule's comment must not end it, nor "<!--" hide it (HTML, 4.12.1.3).
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    page = files("netsim.observe").joinpath("path.html").read_text(encoding="utf-8")
    title = "netsim trace"
    if spread.groups:
        question = spread.groups[0].path.question
        title = f"{question.source} to {question.target}"
    escaped = title.replace("&", "&amp;").replace("<", "&lt;")
    return page.replace(_TITLE, escaped, 1).replace(_SLOT, data, 1)
