"""What a failure looks like: one line for what failed, one for what to do next, and an exit status."""

import errno
import os
import sys
import traceback
from pathlib import Path

import click

from netsim.model.errors import ApiError, NetsimError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE
# What a write meets where there is no room, or no terminal any more
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def report(error: BaseException) -> int:
    """Tell ``error`` on standard error; the exit status it means."""
    if isinstance(error, click.exceptions.Exit):
        return int(error.exit_code)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("\ninterrupted", err=True)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if isinstance(error, NetsimError):
        return _report_known(error)
    if isinstance(error, click.ClickException):
        return _report_usage(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        return _report_full(error)
    return _report_fault(error)


def print_error(message: str, hint: str = "") -> None:
    """``error:`` and ``next:`` lines."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    if hint:
        click.echo(f"{click.style('next:', bold=True)} {hint}", err=True)


def _report_known(error: NetsimError) -> int:
    message = f"{error.where}: {error.message}" if error.where else error.message
    print_error(message, error.hint or _hint_for(error))
    if os.environ.get("NETSIM_DEBUG"):
        traceback.print_exception(error)
    return error.exit_status


def _hint_for(error: NetsimError) -> str:
    """A next step for answers of the API that come without one."""
    if isinstance(error, ApiError) and error.reason == "NotFound" and error.details.get("kind"):
        return f"netsim get {error.details['kind']} -A shows what there is"
    return ""


def _report_usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # "netsim fault": what may follow is its help
        click.echo(error.format_message(), err=True)
        return error.exit_code
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"{context.command_path} --help" if context is not None else "netsim --help"
    message = " ".join(error.format_message().split())  # click lists choices on lines of their own
    print_error(message[:1].lower() + message[1:].rstrip("."), hint)
    return error.exit_code


def _report_full(error: OSError) -> int:
    """A disk that takes no more is no fault of ours. What has no name is standard output."""
    where = os.fsdecode(error.filename) if error.filename else "standard output"
    print_error(f"{where}: cannot write: {error.strerror}")
    return 1


def _report_fault(error: BaseException) -> int:
    """A fault of ours: one line, and the traceback where it can be found."""
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    if os.environ.get("NETSIM_DEBUG"):
        traceback.print_exception(error)
        print_error(f"netsim itself failed: {summary}")
        return 1
    log = _write_traceback(error)
    where = f"the traceback is in {log}" if log else "NETSIM_DEBUG=1 shows the traceback"
    print_error(f"netsim itself failed: {summary}", f"{where}; please report it")
    return 1


def _write_traceback(error: BaseException) -> Path | None:
    from netsim.cluster.state import state_root  # light, and only here

    path = state_root() / "error.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("w") as file:
            file.write(f"{' '.join(sys.argv)}\n")
            traceback.print_exception(error, file=file)
    except OSError:
        return None
    return path
