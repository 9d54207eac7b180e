"""One way to run a function over many items: in this process, on its cores, on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from iscutils.artifacts import KitError

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
    """Runs functions in this process; the base of those that run them elsewhere."""

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

    def _submit(self, key: str, sent: Any, items: list) -> Any:
        raise NotImplementedError

    def _send(self, key: str, payload: bytes) -> Any:
        raise NotImplementedError

    def _died(self, error: Exception) -> bool:
        raise NotImplementedError

    def _collect(self, waiting: deque) -> list[list]:
        """Results of the first chunk that is waiting, and perhaps of those after it."""
        return [waiting.popleft().result()]

    def _results(self, function: Callable, items: Iterator, chunk: int) -> Iterator[Any]:
        key, waiting = uuid.uuid4().hex, deque()
        sent = self._send(key, _dump(function))
        try:
            while True:
                while len(waiting) < WINDOW * self.workers and (part := list(islice(items, chunk))):
                    waiting.append(self._submit(key, sent, part))
                if not waiting:
                    return
                for results in self._collect(waiting):
                    yield from results
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


class _Processes(_Pooled):
    def __init__(self, workers: int):
        self.workers = workers
        self._folder = tempfile.TemporaryDirectory(prefix="iscutils-")
        # Spawn: forking a process that holds threads of torch, OpenCV or Jupyter may hang.
        self._pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_start_worker
        )

    def _send(self, key: str, payload: bytes) -> Path:
        path = Path(self._folder.name) / key  # a private folder: nobody else can write into it
        path.write_bytes(payload)
        return path

    def _submit(self, key: str, sent: Path, items: list) -> Any:
        return self._pool.submit(_run, key, sent, items)

    def _died(self, error: Exception) -> bool:
        return isinstance(error, BrokenProcessPool)

    def close(self, failed: bool = False) -> None:
        if failed:  # do not wait for the chunks that are running
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._folder.cleanup()


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

    def _send(self, key: str, payload: bytes) -> Any:
        # A task, not scattered data: the scheduler repeats it when the worker that holds it dies.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of its size: it is sent only once
            return self._client.submit(bytes, payload, key=f"function-{key}")

    def _submit(self, key: str, sent: Any, items: list) -> Any:
        return self._client.submit(_run, key, sent, items, pure=False)

    def _collect(self, waiting: deque) -> list[list]:
        finished = [waiting.popleft()]
        while waiting and waiting[0].done():
            finished.append(waiting.popleft())
        return self._client.gather(finished)  # together: each call costs some milliseconds

    def _died(self, error: Exception) -> bool:
        return isinstance(error, self._killed)

    def close(self, failed: bool = False) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


_functions: dict[str, Callable] = {}  # of a worker process: the function of the present map


def _run(key: str, sent: Path | bytes, items: list) -> list:
    """In a worker: apply the function that was sent under `key` to each of the items."""
    if key not in _functions:
        _limit_threads()
        _functions.clear()
        _functions[key] = pickle.loads(sent if isinstance(sent, bytes) else sent.read_bytes())
    function = _functions[key]
    return [function(item) for item in items]


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _limit_threads()


def _limit_threads() -> None:
    """One thread per worker: as many processes as cores run already."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # read when OpenCV is imported
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)


def _dump(function: Callable) -> bytes:
    inner = function
    while hasattr(inner, "func"):  # functools.partial
        inner = inner.func
    in_notebook = not hasattr(sys.modules["__main__"], "__file__")
    if getattr(inner, "__module__", "") == "__main__" and in_notebook:
        name = getattr(inner, "__qualname__", inner)
        raise KitError(
            f"{name} is defined in the notebook, where workers cannot import it: put it into a "
            "module, or use executor='serial'"
        )
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise KitError(
            f"{inner} cannot be sent to workers ({error}): use a function of a module, or "
            "executor='serial'"
        ) from error


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
