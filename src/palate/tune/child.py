"""run_in_child(): a function in a process of its own that ends with this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any

from palate.errors import PalateError, TrainingError

IMPORTED = ["palate.recommender.recommender"]
"""What every child needs; with PyTorch, seconds to import."""


def run_in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that runs in a process of its own, so that peak memory is that run's.

    The child ends with this process, however it ends, and is killed if this call is interrupted. It does not see
    Ctrl-C, which the terminal sends to both. Where the system can fork, children share one import of the library.

    Args:
        function: A function of a module.
        arguments: What it is called with; like its result, they are copied.

    Raises:
        TrainingError: The child ended without a result, for example killed by the system for its memory.
        Exception: What the function raised.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, arguments))  # type: ignore[attr-defined]
    try:
        with _ctrl_c_blocked():
            process.start()
        sender.close()
        error, result = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        raise TrainingError(
            f"the process of this run ended without a result (exit code {process.exitcode}); "
            "-9 often means that memory ran out"
        ) from None
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
    if error is not None:
        raise error
    return result


def _context() -> BaseContext:
    """Children come from a server that has imported the library and nothing else: no data, no threads.

    So a child's memory is its own, as if it had been started anew.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def _work(sender: connection.Connection[Any, Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What the child does."""
    _end_with_parent()
    try:
        sender.send((None, function(*arguments)))
    except PalateError as error:
        sender.send((error, None))
    except Exception as error:
        error.add_note(f"in the child process:\n{traceback.format_exc()}")
        sender.send((error, None))


def _end_with_parent() -> None:
    """End this process as soon as its parent ends.

    A thread waits for the parent's end of a pipe to close. It cannot run while another holds the interpreter, so where
    there are signals the kernel sends one too, whose default is to end the process.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # only children call this
    if sys.platform != "win32":
        import fcntl

        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Children that start meanwhile never see SIGINT; this process gets it afterwards."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
