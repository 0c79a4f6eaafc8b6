"""Several processes that draw one plan: how they start, and how they end together.

Lightning starts the further ones as copies of the program. Two things are done otherwise here: one
that fails leaves a note that the others read before their next batch, so that the first process can
say why in one sentence; and one whose first process is gone ends at once, whatever it is doing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from framework.errors import UserError
from framework.experiments.folder import LOG
from framework.runs.atomic import write_atomic

#: A rank that has finished waits for the others; predicting has no other synchronisation.
PATIENCE = timedelta(days=14)
PARENT = "DREAMMATCHER_FIRST_PROCESS"
#: Seconds in which a process notices by itself that another is gone.
GRACE = 8.0
LOST = (
    "One of the processes that drew has ended (was it killed, or out of memory?). What is drawn is "
    "kept: run the same command again, with fewer run.devices if memory is short."
)
_NOTE = "failed.txt"


class _Launcher(_SubprocessScriptLauncher):
    """Starts the further processes; when one of them ends early, this one is told why it ends."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.finished = threading.Event()

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """See the base class, whose observer would kill this process without a word."""
        if not self.cluster_environment.creates_processes_externally:
            os.environ[PARENT] = str(os.getpid())
            try:
                self._call_children_scripts()
            finally:
                os.environ.pop(PARENT)
            threading.Thread(target=self._watch, daemon=True, name="processes").start()
        return function(*args, **kwargs)

    def lost(self) -> bool:
        """Whether one of the processes has ended although there is more to do."""
        return any(process.poll() is not None for process in self.procs)

    def _watch(self) -> None:
        """End this process if it does not notice by itself that it waits for one that is gone."""
        while not self.finished.wait(0.5):
            if self.lost() and not self.finished.wait(GRACE):
                for process in self.procs:
                    process.kill()
                print(f"dreammatcher: error: {LOST}", file=sys.stderr, flush=True)
                os._exit(2)


class SharedPlan(DDPStrategy):
    """Processes that share the batches of a plan."""

    def __init__(self) -> None:
        super().__init__(timeout=PATIENCE)

    def _configure_launcher(self) -> None:
        environment = self.cluster_environment
        if environment is not None and not environment.creates_processes_externally:
            self._launcher = _Launcher(environment, self.num_processes, self.num_nodes)

    def lost(self) -> bool:
        """Whether one of the processes this one started has ended early."""
        return isinstance(self._launcher, _Launcher) and self._launcher.lost()

    def finish(self) -> None:
        """From now on the others may end."""
        if isinstance(self._launcher, _Launcher):
            self._launcher.finished.set()


def can_start_others() -> bool:
    """Whether a copy of this program would draw the same plan: it is our command line, and not a
    test or a notebook that called a function of ours."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    named = getattr(spec, "name", "") in ("framework.cli.main", "framework.__main__")
    return named or Path(sys.argv[0]).name == "dreammatcher"


def end_with_the_first() -> None:
    """In a process that another one started for a plan: end as soon as that one has."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return

    def watch() -> None:
        while str(os.getppid()) == parent:
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="first-process").start()


def first_rank() -> bool:
    """Whether this process is the one of a run that speaks and scores."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def note_failure(folder: Path, error: UserError) -> None:
    """Leave word for the other processes of the run."""
    write_atomic(folder / LOG / _NOTE, str(error))


def failure(folder: Path) -> str | None:
    """What a process of the run failed of; None if none has."""
    path = folder / LOG / _NOTE
    return path.read_text(encoding="utf-8") if path.is_file() else None


def forget_failure(folder: Path) -> None:
    """Before a start: what an earlier one failed of is no matter."""
    (folder / LOG / _NOTE).unlink(missing_ok=True)
