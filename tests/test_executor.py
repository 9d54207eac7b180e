"""Every executor gives what a plain loop gives, in order, also when a worker is killed."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import nbclient
import nbformat
import psutil
import pytest

from iscutils.files.artifacts import KitError
from iscutils.files.executor import WINDOW, open_executor


def square(x):
    return x * x


def uneven_square(x):
    time.sleep(0.02 if x % 5 == 0 else 0)  # later items finish first
    return x * x


def slow_square(x):
    time.sleep(0.02)
    return x * x


def process_of(x):
    return os.getpid()


def threads_of(x):
    import cv2

    return os.environ["OMP_NUM_THREADS"], cv2.getNumThreads()


def pick(values, i):
    return values[i]


def fail_at_seven(x):
    if x == 7:
        raise KitError("seven is bad")
    return x


def die(x):
    os.kill(os.getpid(), signal.SIGKILL)


def mark(folder, x):
    Path(folder, str(x)).touch()
    return x


@pytest.mark.parametrize("name", ["serial", "processes", "dask"])
def test_results_are_in_order_and_functions_may_be_partials(name):
    items = list(range(57))
    with open_executor(name, 2) as executor:
        assert list(executor.map(uneven_square, items, chunk=4)) == [x * x for x in items]
        assert list(executor.map(uneven_square, iter(items[:7]))) == [x * x for x in items[:7]]
        values = [str(x) for x in items]
        assert list(executor.map(partial(pick, values), items, chunk=10)) == values
        assert list(executor.map(square, [])) == []


@pytest.mark.parametrize("name", ["serial", "processes", "dask"])
def test_errors_of_the_function_arrive(name):
    with open_executor(name, 2) as executor:
        results = executor.map(fail_at_seven, range(20))
        assert [next(results) for _ in range(7)] == list(range(7))
        with pytest.raises(KitError, match=r"^seven is bad$"):
            next(results)
        assert list(executor.map(square, range(3))) == [0, 1, 4]  # still of use


def test_workers_are_other_processes_with_one_thread_each():
    with open_executor("processes", 2) as executor:
        assert executor.workers == 2
        assert os.getpid() not in set(executor.map(process_of, range(8)))
        assert set(executor.map(threads_of, range(8))) == {("1", 1)}


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_one_worker_is_this_process(name):
    with open_executor(name, 1) as executor:
        assert executor.workers == 1
        assert set(executor.map(process_of, range(3))) == {os.getpid()}


def test_a_large_function_is_sent_once_per_worker(tmp_path):
    class Counting(list):
        pickled = 0

        def __reduce__(self):
            Counting.pickled += 1
            return list, (list(self),)

    with open_executor("processes", 2) as executor:
        function = partial(pick, Counting(range(1000)))
        assert list(executor.map(function, range(1000))) == list(range(1000))
    assert Counting.pickled <= 2  # and not once per item


def test_items_are_taken_as_needed():
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    with open_executor("processes", 2) as executor:
        results = executor.map(square, endless(), chunk=3)
        assert [next(results) for _ in range(10)] == [x * x for x in range(10)]
        results.close()
    assert len(taken) <= 3 * (WINDOW * 2 + 4)


def test_progress_bar(capsys):
    with open_executor("serial") as executor:
        assert list(executor.map(square, range(4), desc="squares")) == [0, 1, 4, 9]
    assert "squares" in capsys.readouterr().err


def test_a_died_worker_is_named_with_the_remedy():
    with open_executor("processes", 2) as executor:
        with pytest.raises(KitError, match=r"worker process died.*fewer workers"):
            list(executor.map(die, range(4)))


def test_a_function_that_cannot_be_sent():
    with open_executor("processes", 2) as executor:
        with pytest.raises(KitError, match=r"cannot be sent to workers.*serial"):
            list(executor.map(lambda x: x, range(4)))


def test_a_killed_dask_worker_changes_nothing():
    items = range(300)
    with open_executor("dask", 2) as executor:
        results = executor.map(slow_square, items, chunk=2)
        first = [next(results) for _ in range(10)]
        # The worker that holds the function may be either: kill both, one after the other.
        victims = [info["pid"] for info in executor._client.run(_self).values()]
        os.kill(victims[0], signal.SIGKILL)
        middle = [next(results) for _ in range(100)]
        os.kill(victims[1], signal.SIGKILL)
        assert first + middle + list(results) == [x * x for x in items]
    assert not any(psutil.pid_exists(pid) for pid in victims)


def _self():
    return {"pid": os.getpid()}


def test_a_dask_scheduler_by_address():
    import distributed

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None
    ) as cluster:
        with open_executor(cluster.scheduler_address) as executor:
            assert executor.workers == 2
            assert list(executor.map(square, range(9), chunk=2)) == [x * x for x in range(9)]


def test_a_scheduler_without_workers_or_without_answer():
    import distributed

    with distributed.LocalCluster(n_workers=0, dashboard_address=None, processes=True) as cluster:
        with pytest.raises(KitError, match=r"has no workers"):
            open_executor(cluster.scheduler_address)
    started = time.monotonic()
    with pytest.raises(KitError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        open_executor("tcp://127.0.0.1:9")
    assert time.monotonic() - started < 30


def test_unknown_names_and_numbers():
    with pytest.raises(KitError, match=r"unknown executor 'spark'.*'processes'.*'dask'"):
        open_executor("spark")
    with pytest.raises(KitError, match=r"workers=-1"):
        open_executor("processes", -1)


def test_interrupt_stops_the_workers_at_once(ctrl_c):
    ours = set()

    def work():
        with open_executor("processes", 2) as executor:
            results = executor.map(time.sleep, [0, 60, 60, 60])
            next(results)
            ours.update(map(psutil.Process, executor._pools[0]._processes))
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            next(results)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - started < 45  # and not 60
    assert len(ours) == 2
    assert not any(child.is_running() for child in ours)


def test_in_a_notebook():
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(source)
        for source in (
            "import math\n"
            "from iscutils.files.executor import open_executor\n"
            "executor = open_executor('processes', 2)\n"
            "list(executor.map(math.factorial, range(5)))",
            "def here(x):\n"
            "    return x\n"
            "try:\n"
            "    list(executor.map(here, range(4)))\n"
            "except ValueError as error:\n"
            "    print(error)",
            "executor.close()",
        )
    ]
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert notebook.cells[0].outputs[-1].data["text/plain"] == "[1, 1, 2, 6, 24]"
    assert "here is defined in the notebook" in notebook.cells[1].outputs[0].text
