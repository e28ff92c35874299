"""What this machine can do, as tests ask for it: the words of ``netsim check``, ``root``, and ``command:NAME``."""

import os
import shutil
from functools import cache

from netsim.kernel.features import FeatureState, find_feature, missing, probe_features


@cache
def _probed() -> dict[str, FeatureState]:
    return probe_features()


@cache
def missing_feature(feature: str) -> str | None:
    """Why ``feature`` is not here; None where it is. Raises KeyError for a word that ``netsim check`` does not know."""
    if feature == "root":
        return None if os.geteuid() == 0 else "needs root"
    if feature.startswith("command:"):
        command = feature.removeprefix("command:")
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return None if shutil.which(command, path=path) else f"no {command} on this machine"
    find_feature(feature)
    state = _probed()[feature]
    return None if state.present else missing(state).message
