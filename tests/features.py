"""What this machine can do, as tests ask for it: the words of ``netsim check``, and ``root``."""

import os
import shutil
from functools import cache


@cache
def missing_feature(feature: str) -> str | None:
    """Why ``feature`` is not here; None where it is. Raises ValueError for a word nobody knows."""
    if feature == "root":
        return None if os.geteuid() == 0 else "needs root"
    if feature.startswith("command:"):
        command = feature.removeprefix("command:")
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return None if shutil.which(command, path=path) else f"no {command} on this machine"
    raise ValueError(f"unknown feature {feature!r}")
