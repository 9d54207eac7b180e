"""What a run does when its process is asked to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_politely() -> Iterator[None]:
    """Turn the signals that end a process into an exception: the kernel is ended on the way out.

    One that is ignored stays so: `nohup` hides the end of the terminal from a run. Python makes
    Ctrl-C an exception, too, but where SIGINT is ignored at the start (a script's job with `&`) it
    never comes; SIGTERM (`kill`) ends such a run as tidily.
    """

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    former = {number: signal.signal(number, leave) for number in heard}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
