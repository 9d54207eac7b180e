"""One command in many processes: the runners that torchrun starts beside the first one.

    torchrun --nproc-per-node 8 [--nnodes 2 ...] -m iscutils run sscd --set devices=8

The first runner executes the notebooks as it always does. The others follow it: of the notebooks
that train on several devices each executes a copy in a kernel of its own, so that all of them meet
in `training.fit`. A follower's notebook writes nothing but its share of the training and is thrown
away. The run folder lies where all machines see it.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from iscutils.files.artifacts import FOLLOWS, KitError, content_key, log
from iscutils.run.kernels import execute
from iscutils.run.parameters import load_notebooks

PATIENCE = timedelta(days=30)  # of a follower between two notebooks: retrieval may take long
_END = "end"


def started_together() -> bool:
    """Whether torchrun started this process, with others beside it."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this is the process that executes the run; so is one that is alone."""
    return not started_together() or int(os.environ["RANK"]) == 0


class Announcements:
    """What the first runner tells the others, through the store that torchrun keeps for them."""

    def __init__(self) -> None:
        from torch.distributed import PrefixStore, TCPStore  # no one else needs torch here

        kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=not kept and is_first(),
            wait_for_workers=False,
            timeout=PATIENCE,
        )
        self._store, self._count = PrefixStore("iscutils", store), 0

    def say(self, content: Any) -> None:
        """Tell all others."""
        self._store.set(str(self._count), json.dumps(content))
        self._count += 1

    def hear(self) -> Any:
        """The next thing that was told; waits for it."""
        content = json.loads(self._store.get(str(self._count)))
        self._count += 1
        return content


class Leader:
    """The first runner's side: says which notebook comes, with which values, and when all is done.

    Without torchrun there are no other runners, and nothing is sent.
    """

    def __init__(self) -> None:
        self._announcements = Announcements() if started_together() else None

    def begin(self, notebook: str, parameters: Mapping[str, Any]) -> dict[str, str]:
        """Call the others to a notebook, if it is for several; environment of its kernel."""
        if self._announcements is None or parameters.get("devices", 1) == 1:
            return {}
        with socket.socket() as free:  # a new meeting point: the last notebook's is used up
            free.bind(("", 0))
            port = free.getsockname()[1]
        self._announcements.say([notebook, dict(parameters), port])
        return meeting_point(port)

    def end(self) -> None:
        """Let the others go."""
        if self._announcements is not None:
            self._announcements.say(_END)


def meeting_point(port: int) -> dict[str, str]:
    """Environment in which a kernel's processes find each other at the first one's `port`."""
    return {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(False)}


def follow() -> None:
    """Execute copies of the notebooks that the first runner announces, until all is done.

    Raises:
        KitError: a cell failed; torchrun then ends all processes.
    """
    announcements = Announcements()
    notebooks = {notebook.name: notebook for notebook in load_notebooks()}
    marker = content_key("follower", socket.gethostname(), os.getpid())
    with tempfile.TemporaryDirectory(prefix="iscutils-follower-") as folder:
        while (said := announcements.hear()) != _END:
            name, parameters, port = said
            if name not in notebooks:
                raise KitError(f"this machine has no notebook {name}: use the same project on all")
            log.info("%s  process %s joins", name, os.environ["RANK"])
            environment = meeting_point(port) | {FOLLOWS: "1"}
            out = Path(folder) / f"{name}.ipynb"
            execute(notebooks[name], parameters, out, marker, environment)
