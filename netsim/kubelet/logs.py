"""Containers' output: ``logs/NAMESPACE_POD/CONTAINER/N.log`` in the state directory, N the number of restarts."""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from netsim.model.clock import Clock
from netsim.model.names import short_file_name

CHUNK_BYTES = 64 * 1024
FOLLOW_S = 0.1


class LogStore:
    """Files are made when the first line comes: most built-in containers never say a word."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._root = state_dir / "logs"
        self._clock = clock

    def path(self, namespace: str, pod: str, container: str, restarts: int) -> Path:
        return self._folder(namespace, pod) / container / f"{restarts}.log"

    def _folder(self, namespace: str, pod: str) -> Path:
        return self._root / short_file_name(f"{namespace}_{pod}")

    def open(self, namespace: str, pod: str, container: str, restarts: int) -> int:
        """A descriptor for appending, which may be a process's stdout."""
        path = self.path(namespace, pod, container, restarts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def append(self, namespace: str, pod: str, container: str, restarts: int, lines: Sequence[str]) -> None:
        fd = self.open(namespace, pod, container, restarts)
        try:
            os.write(fd, ("\n".join(lines) + "\n").encode())
        finally:
            os.close(fd)

    def remove(self, namespace: str, pod: str) -> None:
        """Forget a pod's output. Safe to repeat."""
        shutil.rmtree(self._folder(namespace, pod), ignore_errors=True)

    async def read(
        self, path: Path, *, tail_lines: int | None, follow: bool, ended: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """The file in pieces; with ``follow`` until ``ended`` says that nobody writes to it any more."""
        offset = 0
        if tail_lines is not None:
            offset = _find_tail(path, tail_lines)
        while True:
            done = ended()  # before reading: what was written until then is read below
            while chunk := _read_at(path, offset):
                offset += len(chunk)
                yield chunk
            if not follow or done:
                return
            await self._clock.sleep(FOLLOW_S)


def _read_at(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return b""


def _find_tail(path: Path, lines: int) -> int:
    """The offset at which the last ``lines`` lines begin."""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            if lines <= 0:
                return position
            data = b""
            while position > 0 and data.count(b"\n") <= lines:
                start = max(0, position - CHUNK_BYTES)
                file.seek(start)
                data = file.read(position - start) + data
                position = start
    except FileNotFoundError:
        return 0
    kept = data.splitlines(keepends=True)[-lines:]
    return position + len(data) - sum(map(len, kept))
