"""Options every trained personalizer has; a method's own dataclass derives from them."""

from __future__ import annotations

from dataclasses import dataclass

from framework.errors import UserError
from framework.options import PartConfig, option

#: Options that say how a training is watched, kept or spread out, not what comes out of it.
WATCHING = (
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "logger",
    "preview_every",
    "preview_prompts",
    "preview_steps",
    "preview_guidance",
)


@dataclass
class TrainingConfig(PartConfig):
    """Length, optimizer, data, precision and records of a training."""

    steps: int = option(250, "updates", low=1)
    learning_rate: float = option(5e-3, "of AdamW, at its peak", low=0.0)
    schedule: str = option(
        "constant", "learning rate over the steps", choices=("constant", "linear", "cosine")
    )
    warmup: int = option(0, "updates of linear warm-up", low=0)
    batch_size: int = option(4, "images a device takes at once", low=1)
    accumulate: int = option(1, "batches a device adds up for one update", low=1)
    weight_decay: float = option(0.0, "of AdamW", low=0.0)
    gradient_clip: float | None = option(1.0, "largest gradient norm; null: none", low=0.0)
    ema: float | None = option(
        None, "keep a running mean of the weights with this decay, e.g. 0.999; null: none", high=1.0
    )
    templates: list[str] = option(
        ["object"],
        "sets 'object', 'style', 'plain', 'custom', or sentences with {}; unknown words drop one",
    )
    with_class: bool = option(True, "write 'S* class' in them, as prompts do; false: 'S*' alone")
    prediction: str = option(
        "auto",
        "what the network predicts; auto: as the checkpoint's scheduler says",
        choices=("auto", "epsilon", "v_prediction", "sample"),
    )
    min_snr: float | None = option(None, "gamma of min-SNR loss weights; null: equal", low=0.0)
    stratified: bool = option(True, "spread a batch's diffusion times evenly")
    sample_latents: bool = option(True, "draw from the VAE's posterior; false: its mean")
    mirror: bool = option(False, "also train on mirrored pictures")
    resolution: int | None = option(None, "side in pixels; null: the model's own", low=8)
    crop: str = option(
        "center",
        "how a picture becomes square: centre crop, several random crops, or stretched",
        choices=("center", "random", "stretch"),
    )
    random_resize: bool = option(
        False, "show pictures in several sizes, with words for them, the loss inside them alone"
    )
    precision: str = option(
        "auto", "of computing; auto: as the weights", choices=("auto", "32", "bf16", "16")
    )
    gradient_checkpointing: bool = option(False, "less memory, a third more time")
    devices: int = option(1, "GPUs (or processes on a CPU) dreammatcher train trains on", low=1)
    checkpoint_every: int = option(100, "updates between checkpoints", low=1)
    keep_checkpoints: int = option(2, "how many of the latest are kept", low=1)
    logger: str = option("csv", "loss curve", choices=("csv", "tensorboard", "none"))
    log_every: int = option(10, "updates between its points", low=1)
    preview_every: int | None = option(
        None, "updates between validation images in previews/; null: none", low=1
    )
    preview_prompts: list[str] = option(["a photo of a {}"], "what they show")
    preview_steps: int = option(25, "denoising steps of each", low=1)
    preview_guidance: float = option(5.0, "classifier-free guidance of each", low=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"ema is {self.ema}; expected a decay between 0 and 1, or null.")


@dataclass
class PriorConfig(TrainingConfig):
    """Prior preservation (Ruiz et al. 2023): the class's other members stay as they were."""

    prior: bool = option(True, "also train on class images the untrained model draws")
    prior_images: int = option(100, "how many class images", low=1)
    prior_weight: float = option(1.0, "of their loss", low=0.0)
    prior_batch: int | None = option(
        None, "class images a device takes at once; null: as many as references", low=1
    )
    prior_template: str = option("a photo of a {}", "their prompt; {} is the class name")
    prior_folder: str | None = option(
        None, "where they are kept, yours among them; null: class_images/ beside the result"
    )
    prior_steps: int = option(50, "denoising steps of each", low=1)
    prior_guidance: float = option(7.5, "classifier-free guidance of each", low=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{}" not in self.prior_template:
            raise UserError(
                f"prior_template is '{self.prior_template}'; expected a sentence with {{}} where "
                "the class name belongs."
            )
