"""Python's cyclic garbage collector, out of the way while much is made and nothing is thrown away."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_paused = 0  # how many ask for it now
_was_enabled = False


@contextmanager
def collector_paused() -> Iterator[None]:
    """No collection inside. For first syncs, which make much and no cycles. Pauses may overlap, in one thread.

    With 10,000 services a third of planning and of reading them was collections that found nothing. What the rest of
    the process throws away meanwhile is collected afterwards.
    """
    global _paused, _was_enabled  # noqa: PLW0603 - the collector is the process's, too
    if not _paused:
        _was_enabled = gc.isenabled()
        gc.disable()
    _paused += 1
    try:
        yield
    finally:
        _paused -= 1
        if not _paused and _was_enabled:
            gc.enable()


def keep_for_good() -> None:
    """Let the collector look at nothing again that is there now; references still free it.

    For when a large map was read and lives as long as the process: each full collection would follow it all, 0.4 s with
    20,000 services, in the middle of some change. What was in a dead cycle just now is never freed, which is little.
    """
    gc.freeze()
