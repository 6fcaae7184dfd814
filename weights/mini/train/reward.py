"""Reward for pictures of the thing and in the style that were asked for, for the UNet and the IP-Adapter.

Painted as `impasto` does, from noise and with guidance, up to some step; what the model takes the picture to be there is decoded and
shown to the net that tells styles and things (teacher.py), and its error goes back through that one step (ReFL, Xu et al. 2023,
arXiv:2304.05977). The loss over noise levels alone makes every step right for pictures that are right so far; this makes the end right.
"""

import random

import torch
import torch.nn.functional as F

from common import moved

STEPS, FIRST, GUIDANCE = 10, 3, 4.0
COUNT, EVERY, WEIGHT = 16, 1, 0.02  # pictures, every how many updates, weight beside the loss over noise levels


class Reward:
    """Running means of the shares told right, style and thing, are in `right`."""

    def __init__(self, vae, teacher, schedule):
        self.vae, self.teacher, self.schedule = vae.requires_grad_(False).to(memory_format=torch.channels_last), teacher, schedule
        self.right = torch.zeros(2)
        self.schedule.set_timesteps(STEPS)

    def guided(self, predict, latents, step, asked, nothing):
        """The velocity at guidance 4. Nothing is learned about what is painted when nothing is asked."""
        steps = torch.full((len(latents),), int(step))
        noisy = latents.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = predict(noisy, steps, *asked).float()
            with torch.no_grad():
                plain = predict(noisy, steps, *nothing).float()
        return plain + GUIDANCE * (found - plain)

    def __call__(self, predict, asked, nothing, styles, things, seed):
        """The weighed cross entropy of the styles [n] and the things [n]. `predict` turns latents, steps and either of `asked` and `nothing`
        (tuples) into velocities."""
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(len(styles), 4, 16, 16, generator=generator)
        last = random.Random(seed).randrange(FIRST, STEPS)
        for step in self.schedule.timesteps[:last]:
            with torch.no_grad():
                found = self.guided(predict, latents, step, asked, nothing)
                latents = self.schedule.step(found, step, latents).prev_sample
        step = self.schedule.timesteps[last]
        found = self.guided(predict, latents, step, asked, nothing)
        clean = self.schedule.step(found, step, latents).pred_original_sample
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pixels = self.vae.decode(clean).sample.float().clamp(-1.1, 1.1)
            said = self.teacher(moved(pixels, generator).contiguous(memory_format=torch.channels_last))
        wanted = (styles, things)
        now = torch.stack([(logits.argmax(1) == number).float().mean() for logits, number in zip(said, wanted)])
        self.right = torch.lerp(self.right, now, 0.02)
        return WEIGHT * sum(F.cross_entropy(logits.float(), number, label_smoothing=0.1) for logits, number in zip(said, wanted))
