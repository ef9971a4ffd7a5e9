"""Work that an interrupt does not break off: it runs to its end, and what interrupted is raised after.

Python delivers signals, such as that of Ctrl-C, to the main thread alone and between any two of its instructions. So
the main thread has such work done by a thread of its own, and waits for it as long as it takes. No signal handler is
replaced, which would itself have to be put back. Other threads do their work where they are.
"""

from __future__ import annotations

import _thread
import contextvars
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

Result = TypeVar("Result")


def uninterrupted(work: Callable[..., Result], *args: Any) -> Result:
    """What `work(*args)` returns or raises; an interrupt that comes meanwhile is raised when it has ended.

    An interrupt that comes before it has begun is raised at once, and the work is not done: callers who need it done
    ask again.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work(*args)
    return _Job(work, args).run()


class _Job(Generic[Result]):
    """One piece of work, done by the thread that takes the turn; with no turn left, nobody begins it any more."""

    def __init__(self, work: Callable[..., Result], args: tuple[Any, ...]) -> None:
        self._work, self._args, self._context = work, args, contextvars.copy_context()
        self._turn, self._done, self._ended = [True], False, _thread.allocate_lock()
        self._result: Result | None = None
        self._error: BaseException | None = None

    def run(self) -> Result:
        interrupt: BaseException | None = None
        self._ended.acquire()
        try:
            _thread.start_new_thread(self._in_a_thread, ())
        except BaseException as error:
            if self._take_turn():
                if isinstance(error, RuntimeError):  # no thread is to be had
                    return self._work(*self._args)
                raise
            interrupt = error
        while True:
            try:
                while not self._done:
                    self._ended.acquire()
                break
            except BaseException as error:  # whatever it is, the work goes on meanwhile
                interrupt = error if interrupt is None else interrupt
        if interrupt is not None:
            raise interrupt
        if self._error is not None:
            raise self._error
        return cast(Result, self._result)

    def _take_turn(self) -> bool:
        try:
            return self._turn.pop()
        except IndexError:
            return False

    def _in_a_thread(self) -> None:
        if not self._take_turn():
            return
        try:
            self._result = self._context.run(self._work, *self._args)
        except BaseException as error:
            self._error = error
        finally:
            self._done = True
            self._ended.release()
