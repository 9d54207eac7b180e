"""One way to run a function over many items: in this process, on its cores, on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Any

from tqdm import tqdm

from iscutils.files.artifacts import KitError

CHOICES = "'processes', 'serial', 'dask' or 'tcp://host:port' of a Dask scheduler"
WINDOW = 4  # tasks in flight per worker: keeps all busy, and millions of items out of memory
CONNECT_SECONDS = 5


def open_executor(executor: str = "processes", workers: int = 0) -> Executor:
    """Start an executor; use it as a context manager, which stops its workers at the end.

    `executor` is "processes" (this machine), "serial" (in this process), "dask" (a local Dask
    cluster) or "tcp://host:port" (a Dask scheduler that is already running). `workers` is the
    number of processes, 0 for one per core; it does not apply to a scheduler. One worker of
    "processes" means this process. Raises `KitError` for another name and for a scheduler that
    does not answer.
    """
    if workers < 0:
        raise KitError(f"workers={workers}: give 0 (all cores) or a positive number")
    workers = workers or _cores()
    if executor == "serial" or (executor == "processes" and workers == 1):
        return Executor()
    if executor == "processes":
        return _Processes(workers)
    if executor == "dask" or executor.startswith(("tcp://", "tls://")):
        return _Dask(executor, workers)
    raise KitError(f"unknown executor '{executor}': choose {CHOICES}")


class Executor:
    """Runs functions in this process; the base of those that run them elsewhere.

    Ctrl-C (SIGINT) is for this process alone, as KeyboardInterrupt: on its way out of `with` it
    stops the workers at once. Those of "processes" ignore the signal, so that none dies with a
    traceback of its own. Where SIGINT is ignored when Python starts (a job with `&` in a script,
    such as `nohup make test &`), it stays ignored and Ctrl-C is not heard: end such a process with
    `kill`. Then, as after any sudden death of this process, its workers end by themselves.
    """

    workers: int = 1

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: type | None, *details: object) -> None:
        self.close(failed=kind is not None)

    def close(self, failed: bool = False) -> None:
        """Stop the workers; at once, if something failed."""

    def map(
        self, function: Callable, items: Iterable, *, desc: str = "", chunk: int = 1
    ) -> Iterator[Any]:
        """Yield `function(item)` in the order of the items, with a progress bar if `desc` is given.

        Work starts with the first `next`; a few chunks of `chunk` items are in flight at a time.
        The function must be importable by the workers (module level, or `functools.partial` of
        such) and is sent to each of them once, so it may carry large arguments. What it raises is
        raised here.
        """
        total = len(items) if hasattr(items, "__len__") else None
        results = self._results(function, iter(items), max(1, chunk))
        return iter(tqdm(results, desc=desc, total=total)) if desc else results

    def _results(self, function: Callable, items: Iterator, chunk: int) -> Iterator[Any]:
        yield from map(function, items)


class _Pooled(Executor):
    """An executor that submits chunks of items; sub-classes say how, and name their failures."""

    def _start(self, function: Callable) -> Callable[[list], Any]:
        """Give the function to the workers; returns what submits a chunk and gives its future."""
        raise NotImplementedError

    def _died(self, error: Exception) -> bool:
        raise NotImplementedError

    def _collect(self, waiting: deque) -> list[list]:
        """Results of the first chunk that is waiting, and perhaps of those after it."""
        return [waiting.popleft().result()]

    def _results(self, function: Callable, items: Iterator, chunk: int) -> Iterator[Any]:
        _check_importable(function)
        waiting, failed = deque(), True
        try:
            submit = self._start(function)
            while True:
                while len(waiting) < WINDOW * self.workers and (part := list(islice(items, chunk))):
                    waiting.append(submit(part))
                if not waiting:
                    break
                for results in self._collect(waiting):
                    yield from results
            failed = False
        except Exception as error:
            if self._died(error):
                raise KitError(
                    "a worker process died, most likely for lack of memory: run again with fewer "
                    "workers (workers=1 runs in this process and shows the cause); a script of "
                    "your own must be a file and start under `if __name__ == '__main__':`"
                ) from error
            raise
        finally:
            for future in waiting:
                future.cancel()
            self._finish(failed)

    def _finish(self, failed: bool) -> None:
        """Called at the end of each map."""


class _Processes(_Pooled):
    """A pool for each map: its workers get the function as they start, so only once."""

    def __init__(self, workers: int):
        self.workers = workers
        self._pools: list[ProcessPoolExecutor] = []  # maps that run now, the innermost last

    def _start(self, function: Callable) -> Callable[[list], Any]:
        # Spawn: forking a process that holds threads of torch, OpenCV or Jupyter may hang.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.workers, context, _start_worker, (function,))
        self._pools.append(pool)
        return partial(_submit, pool, function)

    def _died(self, error: Exception) -> bool:
        return isinstance(error, BrokenProcessPool)

    def _finish(self, failed: bool) -> None:
        if not self._pools:
            return
        pool = self._pools.pop()
        if failed:  # do not wait for the chunks that are running
            for process in list((pool._processes or {}).values()):
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)

    def close(self, failed: bool = False) -> None:
        while self._pools:
            self._finish(failed)


def _submit(pool: ProcessPoolExecutor, function: Callable, items: list) -> Any:
    try:
        return pool.submit(_apply, items)
    except (AttributeError, TypeError, ValueError) as error:  # a worker starts, and cannot get it
        raise _not_sendable(function, error) from error


class _Dask(_Pooled):
    def __init__(self, address: str, workers: int):
        import distributed  # slow to import, and few need it

        self._cluster, self._killed = None, distributed.KilledWorker
        try:
            if address == "dask":
                self._cluster = distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
                )
            self._client = distributed.Client(self._cluster or address, timeout=CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise KitError(
                f"no Dask scheduler answers at '{address}': start one with "
                "`dask scheduler`, and give the address it prints"
            ) from error
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            self.close()
            raise KitError(
                f"the Dask scheduler at '{address}' has no workers: start some with "
                f"`dask worker {address}`"
            ) from error
        self.workers = sum(self._client.nthreads().values())

    def _start(self, function: Callable) -> Callable[[list], Any]:
        # A task, not scattered data: the scheduler repeats it when the worker that holds it dies.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of its size: it is sent only once
            try:
                sent = self._client.submit(_itself, function, key=f"function-{uuid.uuid4().hex}")
            except (AttributeError, TypeError, ValueError) as error:
                raise _not_sendable(function, error) from error
        return lambda items: self._client.submit(_apply_to, sent, items, pure=False)

    def _collect(self, waiting: deque) -> list[list]:
        finished = [waiting.popleft()]
        while waiting and waiting[0].status == "finished":  # and not "error": that one comes alone
            finished.append(waiting.popleft())
        return self._client.gather(finished)  # together: each call costs some milliseconds

    def _died(self, error: Exception) -> bool:
        return isinstance(error, self._killed)

    def close(self, failed: bool = False) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


_function: list[Callable] = []  # of a worker process: the function of its map


def _start_worker(function: Callable) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_threads()
    _function[:] = [function]


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers: they watch it themselves."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _apply(items: list) -> list:
    return [_function[0](item) for item in items]


def _apply_to(function: Callable, items: list) -> list:
    _limit_threads()
    return [function(item) for item in items]


def _itself(function: Callable) -> Callable:
    return function


def _limit_threads() -> None:
    """One thread per worker: as many processes as cores run already."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # read when OpenCV is imported
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)


def _check_importable(function: Callable) -> None:
    inner = _inner(function)
    in_notebook = not hasattr(sys.modules["__main__"], "__file__")
    name = getattr(inner, "__qualname__", str(inner))
    if getattr(inner, "__module__", "") == "__main__" and in_notebook:
        raise KitError(
            f"{name} is defined in the notebook, where workers cannot import it: put it into a "
            "module, or use executor='serial'"
        )
    if "<locals>" in name or "<lambda>" in name:
        raise _not_sendable(function, "workers cannot import it")


def _not_sendable(function: Callable, reason: object) -> KitError:
    return KitError(
        f"{_inner(function)} cannot be sent to workers ({reason}): use a function of a module, or "
        "executor='serial'"
    )


def _inner(function: Callable) -> Callable:
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return function


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
