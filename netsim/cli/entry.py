"""Where the ``netsim`` program starts: Ctrl-C while it is still loading ends it as it ends any program, without a word.

Python's own handler would show a traceback through whatever is being imported.
"""

import signal


def main() -> None:
    """Entry point of the console script."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # and not ignored, as it is for a job in a script's background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from netsim.cli.main import main as start  # 100 ms

    signal.signal(signal.SIGINT, usual)
    start()
