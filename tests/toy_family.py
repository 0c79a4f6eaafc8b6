"""A model family of somebody else's package: a tiny transformer in which image and text attend
jointly, flow matching, packed latents. A configuration joins it by ``plugins: [toy_family]``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.modeling_utils import ModelMixin
from tiny import tiny_text_config, tiny_tokenizer, tiny_vae
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from framework.errors import UserError
from framework.interfaces import BACKBONES, Backbone, Condition
from framework.interfaces.layers import Attend, LayerCall, MapObserver, resolve
from framework.interfaces.levels import Level
from framework.interfaces.schedule import Schedule

# ---------------------------------------------------------------- as its authors wrote it


class JointCall(LayerCall):
    """A layer's image part, attending to the layer's text as well."""

    text: tuple[Tensor, Tensor]

    def attend(self, query, key, value, bias=None, cells=None):
        keys, values = (torch.cat(pair, 2) for pair in zip((key, value), self.text, strict=True))
        if bias is not None:
            bias = F.pad(bias, (0, self.text[0].shape[2]))
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)


class JointAttention(nn.Module):
    """Image cells attend to image cells and to the text."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.path = heads, ""
        self.image, self.text = nn.Linear(width, 3 * width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.decide: Attend = LayerCall.plain
        self.observers: list[MapObserver] = []
        self.calls = 0

    def forward(self, hidden: Tensor, text: Tensor) -> Tensor:
        self.calls += 1
        query, key, value = self._split(self.image(hidden), 3)
        call = JointCall(self.path, query, key, value, hidden, None)
        object.__setattr__(call, "text", self._split(self.text(text), 2))
        if looking := [one for one in self.observers if one.wants(hidden.shape[1])]:
            keys = torch.cat([key, call.text[0]], 2)
            logits = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
            for observer in looking:
                observer.capture(self.path, logits.softmax(-1)[..., hidden.shape[1] :])
        return self.out(self.decide(call).transpose(1, 2).flatten(2))

    def _split(self, tensor: Tensor, parts: int) -> tuple[Tensor, ...]:
        return tuple(
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in tensor.chunk(parts, -1)
        )


class Block(nn.Module):
    """Attention, then a feed-forward layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width), JointAttention(width, 2)
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, hidden: Tensor, text: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.norm(hidden), text)
        return hidden + self.feed(hidden)


class ToyTransformer(ModelMixin, ConfigMixin):
    """Packed latents (rows, N, 16) -> velocity of the same shape."""

    @register_to_config
    def __init__(self, width: int = 32, depth: int = 3, cells: int = 64, sample_size: int = 16):
        super().__init__()
        self.enter, self.leave = nn.Linear(16, width), nn.Linear(width, 16)
        self.place = nn.Parameter(torch.randn(cells, width))
        self.time, self.pooled = nn.Linear(1, width), nn.Linear(32, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])

    def forward(self, hidden: Tensor, time: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        told = self.time(time[:, None]) + self.pooled(pooled)
        hidden = self.enter(hidden) + self.place[: hidden.shape[1]] + told[:, None]
        for block in self.blocks:
            hidden = block(hidden, text)
        return self.leave(hidden)


class ToyPipeline(DiffusionPipeline):
    """What its authors' package would offer to draw with."""

    def __init__(self, transformer, vae, text_encoder, tokenizer, scheduler) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.vae_scale_factor = 8
        self.image_processor = VaeImageProcessor(vae_scale_factor=16)


def toy_pipeline(seed: int = 0) -> ToyPipeline:
    """Random weights."""
    torch.manual_seed(seed)
    tokenizer: CLIPTokenizer = tiny_tokenizer()
    vae: AutoencoderKL = tiny_vae().eval()
    return ToyPipeline(
        ToyTransformer().eval(),
        vae,
        CLIPTextModel(tiny_text_config(tokenizer, 32)).eval(),
        tokenizer,
        FlowMatchEulerDiscreteScheduler(),
    )


# ---------------------------------------------------------------- how the framework sees it


class Steps:
    """A flow-matching scheduler with the calls the loop makes."""

    init_noise_sigma = 1.0

    def __init__(self, inner: Any) -> None:
        self.inner, self.config, self.timesteps = inner, inner.config, inner.timesteps
        self.step = inner.step

    def scale_model_input(self, latents: Tensor, time: Any) -> Tensor:
        return latents


@BACKBONES.register("toy")
class Toy(Backbone):
    """The toy family."""

    label = "Toy"
    pipelines = ("ToyPipeline",)
    component = "transformer"
    channels = 4  # type: ignore[assignment]
    image_size = 128  # type: ignore[assignment]

    @classmethod
    def load(cls, source: str, **options: Any) -> ToyPipeline:
        return ToyPipeline.from_pretrained(source, **options)

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        if height % 16 or width % 16:
            raise UserError(f"The size is {height} x {width}; expected multiples of 16.")
        return height // 8, width // 8

    @torch.no_grad()
    def encode_prompt(self, prompt: str, height: int, width: int) -> tuple[Condition, Condition]:
        return self.encode_texts([prompt], height, width), self.encode_texts([""], height, width)

    def encode_texts(
        self, prompts: Sequence[str], height: int, width: int, frames: Tensor | None = None
    ) -> Condition:
        words = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt"
        )
        encoded = self.pipe.text_encoder(words.input_ids.to(self.device))
        return Condition(encoded.last_hidden_state, {"pooled": encoded.pooler_output})

    def denoise(self, latents: Tensor, timestep: Any, condition: Condition) -> Tensor:
        packed = F.pixel_unshuffle(latents, 2)
        self.grid = packed.shape[-2:]
        time = torch.as_tensor(timestep, dtype=torch.float32) / 1000
        out = self.network(
            packed.flatten(2).transpose(1, 2),
            time.expand(len(latents)),
            condition.embeds,
            condition.added["pooled"],
        )
        return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, self.grid), 2)

    @torch.no_grad()
    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found = self.pipe.vae.encode(image).latent_dist
        return found.mean, found.std

    def encode_image(self, image: Tensor) -> Tensor:
        return self.posterior(image)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self.pipe.vae.decode(row[None]).sample for row in latents])

    def schedule(self, steps, size, scheduler="keep", spacing=None, options=None) -> Schedule:
        if scheduler != "keep":
            raise UserError(f"sampler.scheduler is '{scheduler}'; this family takes 'keep'.")
        made = FlowMatchEulerDiscreteScheduler.from_config(self.pipe.scheduler.config)
        made.set_timesteps(steps, device=self.device)
        *levels, last = [Level.of_flow(float(sigma)) for sigma in made.sigmas]
        times = [float(time) for time in made.timesteps]
        at = lambda time: Level.of_flow(time / 1000)  # noqa: E731
        return Schedule(Steps(made), times, levels, last, at, "flow")

    def self_attentions(self, patterns: Sequence[str], what: str = "injector.layers") -> list[str]:
        found = resolve(self.network, patterns, lambda m: isinstance(m, JointAttention), what)
        for path, layer in found.items():
            layer.path = path
        return list(found)

    text_attentions = self_attentions

    @contextmanager
    def attending(self, layers: Sequence[str], attend: Attend) -> Iterator[None]:
        chosen = [self.network.get_submodule(path) for path in layers]
        try:
            for layer in chosen:
                layer.decide = attend
            yield
        finally:
            for layer in chosen:
                layer.decide = LayerCall.plain

    @contextmanager
    def tapped(self, layers: Sequence[str], observer: MapObserver) -> Iterator[None]:
        chosen = [self.network.get_submodule(path) for path in layers]
        try:
            for layer in chosen:
                layer.observers.append(observer)
            yield
        finally:
            for layer in chosen:
                layer.observers.remove(observer)

    @contextmanager
    def detached_attention(self) -> Iterator[None]:
        hooks = [
            layer.register_forward_hook(lambda module, args, out: out.detach())
            for layer in self.network.modules()
            if isinstance(layer, JointAttention)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def to_grid(self, path: str, output: Any, what: str) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 3:
            raise UserError(f"{what}: '{path}' gives no image cells.")
        return output.transpose(1, 2).unflatten(2, self.grid)
