"""The ``official`` preset against a deliberately naive program written from METHOD.md, section 7.

Nothing here uses the framework's own mathematics: one image at a time, every attention map
explicit, loops over cells, the schedule by hand.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_concept, tiny_sd

from framework.composer import compose

SCALE, GUIDANCE_WEIGHT, FIRST, THRESHOLD = 10.0, 50.0, 4, 0.4
TARGET_PROMPT, REFERENCE_PROMPT = "a red toy dog on the snow", "a photo of a toy dog"


def bilinear(image, height, width, align_corners):
    return F.interpolate(
        image[None], (height, width), mode="bilinear", align_corners=align_corners
    )[0]


class Naive:
    """The program; ``side`` is the latent's, ``components`` of each of the two PCAs."""

    def __init__(self, pipe, steps, token, components, guided, picture):
        self.pipe, self.unet = pipe, copy.deepcopy(pipe.unet)
        self.side, self.steps, self.token = self.unet.config.sample_size, steps, token
        self.components, self.guided = components, guided
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
        self.abar = torch.cumprod(1 - betas, dim=0)
        self.times = [place * (1000 // steps) + 1 for place in range(steps)][::-1]
        self.final = self.abar[0]
        pixels = self.side * 8
        rows, columns = picture.height, picture.width
        array = np.asarray(picture.convert("RGB"))
        ys = [y * rows // pixels for y in range(pixels)]
        xs = [x * columns // pixels for x in range(pixels)]
        image = torch.from_numpy(array[ys][:, xs].astype(np.float32)) / 127.5 - 1
        with torch.no_grad():
            posterior = pipe.vae.encode(image.permute(2, 0, 1)[None]).latent_dist
        self.clean = posterior.mean * 0.18215
        self.empty, self.reference, self.target = map(
            self.embed, ("", REFERENCE_PROMPT, TARGET_PROMPT)
        )
        self.install()

    def embed(self, text):
        ids = self.pipe.tokenizer(
            text, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            return self.pipe.text_encoder(ids)[0]

    # -------------------------------------------------------------- hooks

    def install(self):
        order = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
        order += ["mid_block.attentions.0"]
        order += [f"up_blocks.{i}.attentions.{j}" for i in (1, 2, 3) for j in range(3)]
        assert len(order) == 16
        for number, path in enumerate(order):
            block = self.unet.get_submodule(f"{path}.transformer_blocks.0")
            block.attn1.processor = self.processor(number, crossing=False)
            block.attn2.processor = self.processor(number, crossing=True)
        self.outputs, self.features = {}, None
        self.matching = self.detaching = False
        for number in (1, 2):
            self.unet.up_blocks[number].register_forward_hook(
                lambda module, args, out, number=number: self.outputs.update({number: out.detach()})
            )

    def processor(self, number, crossing):
        program = self

        class Processor:
            def __call__(self, attn, hidden_states, encoder_hidden_states=None, **unused):
                source = encoder_hidden_states if crossing else hidden_states
                rows = []
                heads = attn.heads
                q, k, v = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
                values = list(v)
                if not crossing and number >= 10 and program.matching:
                    for half in (0, 1):  # rows: reference, target of each half
                        mine, theirs = 2 * half + 1, 2 * half
                        values[mine] = program.mix(v[theirs], v[mine], half)
                for row in range(len(hidden_states)):
                    outs = []
                    maps = []
                    for head in range(heads):
                        width = q.shape[-1] // heads
                        part = slice(head * width, (head + 1) * width)
                        logits = q[row][:, part] @ k[row][:, part].T / width**0.5
                        probabilities = logits.softmax(dim=-1)
                        maps.append(probabilities.detach())
                        outs.append(probabilities @ values[row][:, part])
                    rows.append(torch.cat(outs, dim=-1))
                    conditional_target = len(hidden_states) == 4 and row == 3
                    if crossing and number in (4, 5, 7, 8, 9) and conditional_target:
                        mean = torch.stack(maps).mean(dim=0)[:, program.token]
                        program.maps.append(mean)
                out = attn.to_out[0](torch.stack(rows))
                return out.detach() if program.detaching else out

        return Processor()

    # -------------------------------------------------------------- matching

    def mask(self, side):
        mean = torch.stack(self.maps).mean(dim=0)
        assert len(self.maps) == 5
        mean = (mean - mean.min()) / (mean.max() - mean.min())
        grid = mean.reshape(self.side // 4, self.side // 4)
        step = side // (self.side // 4)
        return grid.repeat_interleave(step, 0).repeat_interleave(step, 1)

    def describe(self):
        """Descriptors (reference, target) of each half, (D, side, side)."""
        found = []
        for half in (0, 1):
            joined = [[], []]
            for number in (2, 1):
                pair = [self.outputs[number][2 * half + which] for which in (0, 1)]
                pair = [bilinear(each, self.side, self.side, True) for each in pair]
                columns = torch.cat([each.flatten(1) for each in pair], dim=1)  # (C, 2 cells)
                mean = columns.mean(dim=1, keepdim=True)
                basis = torch.linalg.svd((columns - mean).double(), full_matrices=False).U
                basis = basis[:, : self.components].float()
                for which in (0, 1):
                    flat = basis.T @ (pair[which].flatten(1) - mean)
                    joined[which].append(flat.reshape(-1, self.side, self.side))
            found.append([F.normalize(torch.cat(each), dim=0) for each in joined])
        return found

    def flow(self, half, side):
        """(y, x) of the best reference cell for every target cell, and the confidence."""
        reference, target = self.features[half]
        if side != self.side:
            reference, target = (
                F.normalize(bilinear(each, side, side, False), dim=0)
                for each in (reference, target)
            )
        similarity = target.flatten(1).T @ reference.flatten(1)  # (target cells, reference cells)
        there, back = similarity.argmax(dim=1), similarity.argmax(dim=0)
        confidence = torch.zeros(side, side)
        limit = THRESHOLD * side * float(self.mask(side).mean())
        best = there.reshape(side, side)
        for y in range(side):
            for x in range(side):
                home = int(back[best[y, x]])
                error = ((home // side - y) ** 2 + (home % side - x) ** 2) ** 0.5
                confidence[y, x] = float(error < limit)
        return best, confidence

    def mix(self, theirs, mine, half):
        side = int(len(mine) ** 0.5)
        best, confidence = self.flow(half, side)
        weight = (confidence * self.mask(side)).flatten()[:, None]
        return weight * theirs[best.flatten()] + (1 - weight) * mine

    # -------------------------------------------------------------- sampling

    def evaluate(self, latents, time, embeds):
        return self.unet(latents, time, encoder_hidden_states=embeds).sample

    def ddim(self, latents, eps, before, after):
        clean = (latents - (1 - before) ** 0.5 * eps) / before**0.5
        return after**0.5 * clean + (1 - after) ** 0.5 * eps

    def invert(self):
        latents, abar, found = self.clean, self.final, []
        for time in self.times[::-1]:
            with torch.no_grad():
                eps = self.evaluate(latents, time, self.empty)
            latents = self.ddim(latents, eps, abar, self.abar[time])
            abar = self.abar[time]
            found.append(latents)
        return found[::-1]

    def sample(self, latents, inverted):
        found = []
        embeds = torch.cat([self.empty, self.empty, self.reference, self.target])
        for step, time in enumerate(self.times):
            self.maps, self.matching = [], step >= FIRST
            guided = self.guided and step >= FIRST
            self.detaching = guided
            rows = torch.cat([inverted[step], latents] * 2).requires_grad_(guided)
            with torch.set_grad_enabled(guided):
                eps = self.evaluate(rows, time, embeds)
                self.matching = False
                abar = self.abar[time]
                with torch.no_grad():
                    self.features = self.describe()
                corrected = self.guide(eps, rows, latents, abar) if guided else eps.detach()
            uncond, cond = corrected[1:2], corrected[3:4]
            combined = uncond + SCALE * (cond - uncond)
            earlier = time - 1000 // self.steps
            after = self.abar[earlier] if earlier > 0 else self.final
            latents = self.ddim(latents, combined, abar, after)
            found.append(latents)
        return found

    def guide(self, eps, rows, latents, abar):
        total, weights = 0.0, 0.0
        for half in (0, 1):
            predicted = (latents - (1 - abar) ** 0.5 * eps[2 * half + 1]) / abar**0.5
            best, confidence = self.flow(half, self.side)
            weight = confidence * self.mask(self.side)
            warped = self.clean.flatten(2)[:, :, best.flatten()].reshape(self.clean.shape)
            for channel in range(4):
                difference = weight * (warped - predicted)[0, channel]
                total = total + (difference**2).sum()
                weights = weights + weight.sum()
        gradient = torch.autograd.grad(total / weights, rows)[0]
        return (eps - GUIDANCE_WEIGHT * (1 - abar) ** 0.5 * gradient).detach()


def relative(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize(
    ("side", "steps", "guided"),
    [
        (32, 7, False),
        (32, 7, True),
        pytest.param(32, 12, True, marks=pytest.mark.slow),
    ],
)
def test_the_official_preset(side, steps, guided):
    """Inversion latents, and the target's latent after every step, to 1e-3 of their scale."""
    pipe = tiny_sd(seed=3, sample_size=side)
    pipe.set_progress_bar_config(disable=True)
    token, components = 4, 20
    concept = tiny_concept()
    preset = "presets/official_guided" if guided else "presets/official"
    overrides = [
        f"mask.tokens=[{token}]",
        f"mask.resolution={side // 4}",
        f"extractor.pca={2 * components}",
        f"sampler.num_inference_steps={steps}",
        "model.path=unused",
    ]
    sampler = compose(preset, pipe=pipe, concept=concept, overrides=overrides)
    noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(11))
    program = Naive(pipe, steps, token, components, guided, concept.images[0])
    inverted = program.invert()
    ours = sampler.reference()
    assert relative(ours.latent, program.clean) < 1e-5
    for step in range(steps):
        assert relative(ours.trajectory[step], inverted[step]) < 1e-4
    expected = program.sample(noise, inverted)
    trace = sampler(TARGET_PROMPT, latents=noise, output_type="latent", return_trace=True).trace
    worst = [relative(seen.latents, theirs) for seen, theirs in zip(trace, expected, strict=True)]
    print(f"side {side}, {steps} steps, guided {guided}: largest error {max(worst):.1e}")
    assert max(worst) < 2e-5
    plain = sampler_without(pipe, concept, overrides, noise)
    effect = relative(plain, expected[-1])
    print(f"without matching the result is {effect:.1e} away")
    assert effect > 100 * max(worst)  # so the comparison says something


def sampler_without(pipe, concept, overrides, noise):
    plain = compose(
        "presets/official", pipe=pipe, concept=concept, overrides=[*overrides, "injector.name=none"]
    )
    return plain(TARGET_PROMPT, latents=noise, output_type="latent").images
