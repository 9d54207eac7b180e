"""Execute one notebook with papermill, in a kernel of this interpreter that never outlives it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import zmq
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbformat import NotebookNode
from tqdm import tqdm
from traitlets import Dict, Unicode

from iscutils.files.artifacts import KitError
from iscutils.run.parameters import Notebook

MARKER = "ISCUTILS_KERNEL"  # environment variable of a kernel and of all its child processes


def execute(
    notebook: Notebook,
    parameters: Mapping[str, Any],
    out: Path,
    marker: str,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Execute a notebook with the given parameters and keep it as `out`, finished or failed.

    Args:
        notebook: of the project, left as it is.
        parameters: all its values; those that differ from its own cell are injected.
        out: path of the executed notebook, replaced when the execution ends.
        marker: text that names the run, carried by the kernel and its workers.
        environment: further variables of the kernel.

    Raises:
        KitError: a cell failed or the kernel died; `out` holds the notebook up to there.
    """
    import papermill  # imports much: not needed by a run that is finished already
    from nbclient.exceptions import DeadKernelError

    out.parent.mkdir(parents=True, exist_ok=True)
    running = running_path(out)
    progress = _Progress(notebook)
    try:
        with _kernel(marker, environment or {}) as manager, contextlib.closing(progress):
            papermill.execute_notebook(
                _literal(notebook.path),
                _literal(running),
                parameters=_changed(notebook, parameters),
                kernel_name="python3",
                language="python",
                km=manager,
                start_timeout=180,
                progress_bar=False,
                on_cell_execute=progress.cell,
                on_cell_executed=_tidy,
                stderr_file=progress,
            )
    except papermill.PapermillExecutionError as error:
        reason = _last_line(error.ename, error.evalue)
        raise _failed(notebook, error.exec_count, reason, out) from error
    except (DeadKernelError, RuntimeError) as error:
        reason = f"the kernel died ({error}); often memory ran out: lower batch sizes or workers"
        raise _failed(notebook, progress.count, reason, out) from error
    finally:
        if running.exists():
            os.replace(running, out)
    return out


def running_path(out: Path) -> Path:
    """Where papermill writes while the notebook that becomes `out` is executed."""
    return out.with_name(f".{out.stem}.running.ipynb")


def _literal(path: Path) -> str:
    """Path as papermill wants it: it formats braces."""
    return str(path.absolute()).replace("{", "{{").replace("}", "}}")


def _changed(notebook: Notebook, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters to inject: those that differ from the notebook's own cell."""
    defaults = notebook.defaults()
    return {name: value for name, value in parameters.items() if value != defaults[name]}


def _last_line(ename: str, evalue: str) -> str:
    """An error as one line; of a `KitError` its message, which says all."""

    lines = [line.strip() for line in evalue.strip().splitlines() if line.strip()]
    message = lines[-1] if lines else ""
    if ename in {kind.__name__ for kind in _family(KitError)}:
        return message
    return f"{ename}: {message}" if message else ename


def _family(kind: type) -> Iterator[type]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def _failed(notebook: Notebook, cell: int, reason: str, executed: Path) -> KitError:
    return KitError(f"{notebook.name}, cell [{cell}]: {reason}\nexecuted notebook: {executed}")


def _tidy(cell: NotebookNode, **_: Any) -> None:
    """Join the pieces of printed text, with progress bars in their last state (papermill's hook).

    nbclient's own `coalesce_streams` takes time quadratic in the length of a line.
    """
    streams: dict[str, NotebookNode] = {}
    outputs = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name in streams:
            streams[output.name].text += output.text
            continue
        if output.output_type == "stream":
            streams[output.name] = output
        outputs.append(output)
    for output in streams.values():
        lines = output.text.split("\n")
        output.text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
    cell.outputs = outputs


class _Progress:
    """A line such as `05_extraction  cell 7/23`, with the last line of the cell's own progress."""

    def __init__(self, notebook: Notebook) -> None:
        cells = [cell for cell in notebook.document.cells if cell.cell_type == "code"]
        self.count = 0
        self.bar = tqdm(
            total=len(cells),
            desc=notebook.name,
            bar_format="{desc}  cell {n_fmt}/{total_fmt}  {elapsed}{postfix}",
            mininterval=0.2 if sys.stderr.isatty() else 30,  # a log file wants few lines
            miniters=0,  # within a long cell, too
            dynamic_ncols=True,
        )

    def cell(self, **_: Any) -> None:
        """A code cell begins (papermill's hook)."""
        self.count += 1
        # Injected parameters are one more cell than the notebook has.
        self.bar.total = max(self.bar.total, self.count)
        self.bar.set_postfix_str("", refresh=False)
        self.bar.update(1)

    def write(self, text: str) -> None:
        """Text of the kernel's standard error (papermill's hook)."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)  # colours and cursor movements
        lines = [line.strip() for line in re.split(r"[\r\n]", plain) if line.strip()]
        if lines:
            self.bar.set_postfix_str(lines[-1][:60], refresh=False)
            self.bar.update(0)

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Leave the line as it stands."""
        self.bar.set_postfix_str("", refresh=False)
        self.bar.close()


class _ThisInterpreter(KernelSpecManager):
    """Answers every kernel name with the running interpreter, whatever specs are installed.

    A `python3` spec of the user's home may point to another environment without the kit.
    """

    marker = Unicode()
    environment = Dict()

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        environment = {
            MARKER: self.marker,
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            **self.environment,
        }
        return KernelSpec(resource_dir=RESOURCES, env=environment, **get_kernel_dict())


class _Manager(AsyncKernelManager):
    """A kernel manager that remembers its client, which papermill leaves open."""

    opened: AsyncKernelClient | None = None

    def client(self, **options: Any) -> AsyncKernelClient:
        self.opened = super().client(**options)
        return self.opened


@contextlib.contextmanager
def _kernel(marker: str, environment: Mapping[str, str]) -> Iterator[AsyncKernelManager]:
    """A kernel manager whose kernel and workers are gone when the block ends, however it ends."""
    interpreter = _ThisInterpreter(marker=marker, environment=dict(environment))
    manager = _Manager(kernel_spec_manager=interpreter)
    # Other users of the machine can reach the kernel's ports. (jupyter_client >= 8.10)
    if manager.has_trait("transport_encryption") and zmq.has("curve"):
        manager.transport_encryption = "auto"
    try:
        yield manager
        run_sync(manager.shutdown_kernel)()  # lets the kernel leave by itself
    finally:
        end_processes(marker)
        if manager.opened is not None:
            manager.opened.stop_channels()
        run_sync(manager.cleanup_resources)()


def end_processes(marker: str, seconds: float = 10) -> None:
    """End every kernel, and every worker of a kernel, that carries this run's marker.

    Called with the run folder locked: a process that still carries it was left by a killed runner,
    or belongs to a kernel that this runner is done with. Waits `seconds` at most for the end.
    """
    found = []
    for process in psutil.process_iter():
        # Other users' processes cannot be read, and some end while we look.
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARKER) == marker and process.pid != os.getpid():
                process.kill()
                found.append(process)
    end = time.monotonic() + seconds
    while any(map(_runs, found)) and time.monotonic() < end:
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
