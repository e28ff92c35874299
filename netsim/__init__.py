"""netsim: a Kubernetes network on one Linux machine.

Everything is imported on first use: ``import netsim`` alone costs nothing, so that the CNI program, which lives in this
distribution, starts in milliseconds.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; importing it from typing costs 10 ms

__version__ = "0.1.0"
__all__ = ["__version__", "attach", "up"]

if TYPE_CHECKING:
    from netsim.cluster.handle import attach, up


def __getattr__(name: str) -> object:
    if name in ("up", "attach"):
        # By name, not by an import statement: the layers below import this package, and may not see that module.
        return getattr(import_module("netsim.cluster.handle"), name)
    raise AttributeError(f"module 'netsim' has no attribute {name!r}")
