"""The LightningModule: a frozen pipeline, some trained parameters, a loss and an optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from framework.interfaces.backbone import Backbone
from framework.training.data import Batch
from framework.training.objective import Objective


@dataclass(frozen=True)
class Optimization:
    """How parameters are updated: AdamW.

    Attributes:
        steps: number of updates.
        learning_rate: at its peak.
        schedule: ``constant``, or ``linear`` or ``cosine`` decay to zero over the steps.
        warmup: updates of linear warm-up.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient; None for no limit.
        text_learning_rate: of parameters whose names begin with ``text_encoder``; None: the same.
        ema: decay of a running mean of the parameters; None for none.
        accumulate: batches for one update.
    """

    steps: int
    learning_rate: float
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    text_learning_rate: float | None = None
    ema: float | None = None
    accumulate: int = 1

    def factor(self, step: int) -> float:
        """Learning rate of an update, as a fraction of the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return 1.0 - done if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


class Diverged(Exception):
    """The loss or its gradient is not finite; raised before the parameters are touched."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} in step {step}")
        self.step, self.what = step, what


class Trainee(pl.LightningModule):
    """What :func:`framework.training.loop.fit` trains.

    Attributes:
        optimization: optimizer and schedule.
        identity: names the task; kept in checkpoints so that no other task resumes from them.
    """

    optimization: Optimization
    identity: str

    def follow(self) -> None:
        """Called once an update, for those that keep a running mean."""

    def use_average(self) -> None:
        """Called at the end, likewise."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the task's identity into a checkpoint."""
        checkpoint["identity"] = self.identity


class DenoisingSystem(Trainee):
    """Trains parameters that somewhere take part in a pipeline's denoising.

    The pipeline is received, not owned: its weights are no submodule, are neither moved nor saved,
    and a checkpoint holds the trained parameters and the optimizer's state alone.

    Args:
        model: the pipeline, its own weights frozen.
        objective: the loss.
        parameters: what is trained, by name; every one is float32.
        optimization: optimizer and schedule.
        size: (height, width) of the images in pixels, for micro-conditioning.
        identity: names the task; kept in checkpoints so that no other task resumes from them.
    """

    def __init__(
        self,
        model: Backbone,
        objective: Objective,
        parameters: Mapping[str, nn.Parameter],
        optimization: Optimization,
        size: tuple[int, int],
        identity: str = "",
    ) -> None:
        super().__init__()
        # Dots are not permitted in the names of parameters.
        self.trained = nn.ParameterDict(
            {name.replace(".", "/"): value for name, value in parameters.items()}
        )
        self.optimization = optimization
        self.identity = identity
        self.average: dict[str, Tensor] | None = None
        self._model, self._objective, self._size = model, objective, size

    def on_fit_start(self) -> None:
        """Bring the pipeline to this process's device."""
        if self._model.device != self.device:
            self._model.pipe.to(self.device)
        if self.optimization.ema is not None and self.average is None:
            self.average = {name: p.detach().clone() for name, p in self.trained.items()}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One denoising loss.

        Raises:
            Diverged: it is not finite.
        """
        noisy = self._objective.noisy(batch)
        condition = self._model.encode_texts(batch.prompts, *self._size, batch.frames)
        output = self._model.denoise(noisy, batch.timesteps, condition)
        loss = self._objective.loss(output, batch)
        # Of several processes one alone must not stop: there the gradient, which all share, tells.
        if not torch.isfinite(loss) and self.trainer.world_size == 1:
            raise Diverged(self.global_step, f"the loss is {loss.item()}")
        self.log("loss", loss.detach(), batch_size=len(batch.prompts))
        return loss

    @property
    def pipe(self) -> Any:
        """The pipeline that carries what is trained."""
        return self._model.pipe

    def follow(self) -> None:
        """Move the running mean towards the parameters; called once an update."""
        if self.average is None:
            return
        decay = self.optimization.ema
        for name, parameter in self.trained.items():
            # As usual the mean starts fast: its first steps would else be mostly the start values.
            fast = min(decay, (1 + self.global_step) / (10 + self.global_step))  # type: ignore[type-var]
            self.average[name].lerp_(parameter.detach(), 1 - fast)  # type: ignore[operator]

    def use_average(self) -> None:
        """Put the running mean, if there is one, into the parameters."""
        for name, value in (self.average or {}).items():
            self.trained[name].data.copy_(value)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at the gradient before it is used; a gradient scaler looks for itself."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        self.log("gradient_norm", norm)
        self.log("learning_rate", optimizer.param_groups[0]["lr"])
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not scaled and not torch.isfinite(norm):
            raise Diverged(self.global_step, f"the gradient's norm is {norm.item()}")

    def check_finite(self) -> None:
        """Look at what was trained before it is kept.

        Raises:
            Diverged: some of it is not finite.
        """
        for name, parameter in self.trained.items():
            if not torch.isfinite(parameter).all():
                raise Diverged(self.global_step - 1, f"{name.replace('/', '.')} is not finite")

    def configure_optimizers(self) -> Any:
        """AdamW with a learning rate that is a function of the step."""
        options = self.optimization
        rates = {False: options.learning_rate, True: options.learning_rate}
        if options.text_learning_rate is not None:
            rates[True] = options.text_learning_rate
        members: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for name, parameter in self.trained.items():
            members[name.startswith("text_encoder")].append(parameter)
        groups = [{"params": members[key], "lr": rates[key]} for key in members if members[key]]
        optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, options.factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the task's identity and the running mean into a checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["average"] = self.average

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the running mean out of one."""
        average = checkpoint.get("average")
        if average is not None:
            devices = {name: p.device for name, p in self.trained.items()}
            self.average = {name: value.to(devices[name]) for name, value in average.items()}
