"""What a Cluster handle offers about frames. Every command imports this module, so what captures is imported late."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from netsim.cluster.control_client import ControlClient

if TYPE_CHECKING:
    from netsim.cluster.capture_run import RunningCapture, Spot
    from netsim.observe.capture import Capture
    from netsim.observe.sinks import Sink

SNAPLEN_MAX = 262144  # netsim.kernel.tap's


class Capturing:
    """Part of `netsim.cluster.handle.Cluster`."""

    _control: ControlClient
    pid: int

    def capture(
        self,
        where: str | Sequence[str],
        *,
        file: str | os.PathLike[str] | None = None,
        filter: str = "",
        snaplen: int = SNAPLEN_MAX,
        merge: bool = False,
    ) -> "RunningCapture":
        """Every frame that crosses an interface of these places while a ``with`` block runs.

        where:   places, or one interface each: ``pod/web``, ``node/node-1``, ``node/node-1:cni0``, ``fabric``.
        file:    a pcapng file to write as well.
        filter:  what to see, in libpcap's language (pcap-filter(7)).
        snaplen: how many bytes of each frame are kept.
        merge:   of each frame only its first crossing; else every crossing of every interface counts.

        Afterwards ``frames`` has the crossings by time. Raises UsageError for a filter or a place that is none,
        NetsimError for a place or an interface that is not there.
        """
        from netsim.cluster.capture_run import RunningCapture, application_name, parse_spots
        from netsim.kernel.bpf import compile_filter
        from netsim.observe.sinks import FileSink

        spots = parse_spots([where] if isinstance(where, str) else where)

        def start(make_sink: "Callable[[], Sink]") -> "Capture":
            return self.start_capture(spots, make_sink, filter=filter, snaplen=snaplen, merge=merge)

        def make_file() -> "Sink":
            return FileSink(os.fspath(file or ""), application=application_name(), snaplen=snaplen, filter=filter)

        compile_filter(filter)  # told here, not where the block begins
        return RunningCapture(start, None if file is None else make_file)

    def start_capture(
        self,
        spots: "Sequence[Spot]",
        make_sink: "Callable[[], Sink]",
        *,
        filter: str = "",
        snaplen: int = SNAPLEN_MAX,
        skip_missing: bool = False,
        note: Callable[[str], None] = lambda _text: None,
        **options: Any,
    ) -> "Capture":
        """Open the taps, from when on frames are seen, then the sink; `Capture.run` is the caller's to call.

        ``skip_missing``: a place that is not there (any more) is noted and left out. ``options`` are Capture's.
        """
        from netsim.cluster.capture_run import start_capture

        return start_capture(
            self._control,
            self.pid,
            spots,
            make_sink,
            filter=filter,
            snaplen=snaplen,
            skip_missing=skip_missing,
            note=note,
            **options,
        )
