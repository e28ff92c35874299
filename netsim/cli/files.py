"""Results in files: whole or, when that fails, as they were before."""

import os
from pathlib import Path

from netsim.model.errors import NetsimError


def check_writable(file: str) -> None:
    """Before anything is done for it. Raises NetsimError."""
    path = Path(file)
    if path.is_dir():
        raise NetsimError("cannot write: it is a folder", where=file)
    if not path.absolute().parent.is_dir():
        raise NetsimError("cannot write: there is no such folder", where=str(path.parent))


def write_file(file: str, text: str) -> None:
    """The whole file or, when that fails, what was there before. Raises NetsimError."""
    path = Path(file)
    if path.exists() and not path.is_file():  # a pipe, /dev/stdout: nothing to be replaced
        _write_through(path, text)
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)
        beside.replace(path.resolve())
    except OSError as error:
        beside.unlink(missing_ok=True)
        hint = "what was there before still is"
        raise NetsimError(f"cannot write: {error.strerror}", where=file, hint=hint) from error


def _write_through(path: Path, text: str) -> None:
    try:
        with path.open("w", encoding="utf-8") as stream:
            stream.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NetsimError(f"cannot write: {error.strerror}", where=str(path)) from error
