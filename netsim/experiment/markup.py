"""HTML and SVG elements as text, escaped by construction. Pure.

Small on purpose: with a template engine the page's logic would be in a second language, for one page.
"""

from html import escape

_VOID = frozenset({"meta", "br", "line", "circle", "rect", "path", "polyline", "polygon"})


class Markup(str):
    """Text that is markup already. Everything else is escaped when it is put into an element."""

    __slots__ = ()


Child = str | Markup | None | list["Child"] | tuple["Child", ...]


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """``<name ...>children</name>``. ``class_`` is class, ``_`` in names is ``-``; None, False: no such attribute."""
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        parts.append(attribute if value is True else f'{attribute}="{escape(shown, quote=True)}"')
    opening = " ".join(parts)
    if name in _VOID:
        return Markup(f"<{opening}/>" if not children else f"<{opening}>{join(*children)}</{name}>")
    return Markup(f"<{opening}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """One after the other."""
    return Markup("".join(_render(child) for child in children))


def _render(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return str(child)
    if isinstance(child, list | tuple):
        return "".join(_render(one) for one in child)
    return escape(child, quote=True)
