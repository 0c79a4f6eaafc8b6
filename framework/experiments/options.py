"""Where and how a plan runs; nothing here but ``precision`` changes a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from framework.errors import UserError
from framework.options import PartConfig, option
from framework.runs.loggers import KINDS

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


@dataclass
class RunConfig(PartConfig):
    """Devices as Lightning takes them."""

    accelerator: str = option("auto", "auto, cpu, gpu, cuda, mps, as Lightning takes them")
    devices: Any = option("auto", "processes a node; auto: every GPU, or one a CPU core")
    num_nodes: int = option(1, "nodes", low=1)
    strategy: str = option("auto", "auto (ddp for several processes), ddp, ddp_notebook, ...")
    precision: str = option(
        "32-true", "automatic mixed precision around the sampler", choices=PRECISIONS
    )
    threads: int | None = option(
        1, "CPU threads a process; they change the last bits; null: as the machine has it", low=1
    )
    weights: str | None = option(
        None, "folder of learned weights, shared between runs; null: in the run folder"
    )
    log: str = option("csv", "log of progress and scores, below log/", choices=KINDS)
    matches: int = option(16, "matches kept with each picture for the report; 0: none", low=0)
    flows: int = option(
        0, "prompts whose first picture keeps flow, confidence and masks, below log/flows/", low=0
    )


def placed(run: RunConfig, device: str) -> RunConfig:
    """Where a plan runs whose configuration names a device (``model.device``) itself.

    Raises:
        UserError: ``run`` says otherwise.
    """
    if device == "auto":
        return run
    kind, _, index = device.partition(":")
    accelerator = {"cuda": "gpu"}.get(kind, kind)
    said = {"cuda": "gpu"}.get(run.accelerator, run.accelerator)
    if said not in ("auto", accelerator) or (index and run.devices != "auto"):
        raise UserError(
            f"model.device is '{device}', and run.accelerator is '{run.accelerator}' with "
            f"run.devices {run.devices}; give one of the two."
        )
    devices = [int(index)] if index.isdigit() else run.devices
    return replace(run, accelerator=accelerator, devices=devices)
