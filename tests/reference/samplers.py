"""diffusers' schedulers, driven step by step -> tests/fixtures/samplers/{runs,counts,guidance}.safetensors and configs.json.

runs: a tensor is named `config/sampler/sigmas/steps/strength` (strength `-`: from noise; else as the image-to-image
pipeline runs it). Row 0 is init_noise_sigma, the final sigma and the starting latents; then a row per evaluation:
timestep, sigma, latents after it. counts: `config/sampler/sigmas`, for every number of steps from 1 the sum of
(i + 1) * timesteps[i]; NaN where diffusers fails or divides by zero. The net is a formula the Rust test computes too.
guidance: outputs guided and rescaled as the pipelines do. diffusers 0.42.1, torch 2.15.0.
"""

import json
import logging
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from safetensors.torch import save_file

OUT = Path(__file__).parents[1] / "fixtures/samplers"
SHAPE = [1, 2, 2, 2]
CLASSES = {
    "ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler,
    "euler-a": diffusers.EulerAncestralDiscreteScheduler, "heun": diffusers.HeunDiscreteScheduler,
    "dpmpp-2m": diffusers.DPMSolverMultistepScheduler, "unipc": diffusers.UniPCMultistepScheduler,
    "pndm": diffusers.PNDMScheduler, "lcm": diffusers.LCMScheduler,
}
SIGMAS = {"default": {}, "karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}
WITH_SIGMAS = ["euler", "heun", "dpmpp-2m", "unipc"]
ALL = list(CLASSES)

# Stable Diffusion 1.5's scheduler_config.json.
SD = dict(_class_name="PNDMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
          num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None)
V = SD | dict(prediction_type="v_prediction")
GRID = {f"{spacing}-{prediction}": SD | dict(timestep_spacing=spacing, prediction_type=prediction)
        for spacing in ("leading", "linspace", "trailing") for prediction in ("epsilon", "v_prediction")}
LIST = [0.0001 + 0.00003 * i for i in range(400)]
# name: (configuration, samplers, sigmas, steps)
OTHERS = {
    "sd": (SD, ALL, ["default"], [1, 12]),
    "empty": ({}, ALL, ["default"], [4, 12]),
    "runge-kutta": (V | dict(skip_prk_steps=False), ["pndm"], ["default"], [4, 9]),
    "offset-0": (SD | dict(steps_offset=0, set_alpha_to_one=True, timestep_spacing="leading"), ALL, ["default"], [7]),
    "cosine": (SD | dict(beta_schedule="squaredcos_cap_v2"), ALL, ["default", "karras"], [6]),
    "cosine-clipped": (SD | dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1), ["dpmpp-2m"],
                       ["default", "karras"], [6]),
    "sample": (SD | dict(prediction_type="sample"), [s for s in ALL if s not in ("pndm", "euler-a")], ["default"], [6]),
    "zero-snr": (V | dict(rescale_betas_zero_snr=True, timestep_spacing="trailing"), ALL, ["default"], [6]),
    "clip": (SD | dict(clip_sample=True, clip_sample_range=0.7), ["ddim", "heun", "lcm"], ["default"], [6]),
    "ends-noisy": (SD | dict(final_sigmas_type="sigma_min"), ["euler", "dpmpp-2m", "unipc"], list(SIGMAS), [6, 16]),
    "bounded": (SD | dict(sigma_min=0.1, sigma_max=10.0), WITH_SIGMAS, ["karras", "exponential"], [6]),
    "chosen-karras": (SD | dict(use_karras_sigmas=True), ALL, ["default"], [6]),
    "order-1": (SD | dict(solver_order=1), ["dpmpp-2m", "unipc"], ["default"], [6]),
    "order-3": (SD | dict(solver_order=3), ["dpmpp-2m", "unipc"], ["default", "karras"], [3, 6, 16]),
    "other-solver": (SD | dict(solver_type="heun"), ["dpmpp-2m"], ["default"], [6]),
    "plain-bh": (SD | dict(solver_type="bh1", solver_order=3, final_sigmas_type="sigma_min"), ["unipc"], ["default"], [6]),
    "full-order": (SD | dict(lower_order_final=False, final_sigmas_type="sigma_min"), ["dpmpp-2m", "unipc"], ["default"],
                   [6]),
    "euler-end": (SD | dict(euler_at_final=True, final_sigmas_type="sigma_min"), ["dpmpp-2m"], ["default"], [16]),
    "uncorrected": (SD | dict(disable_corrector=[0, 3]), ["unipc"], ["default"], [6]),
    "distilled": (SD | dict(original_inference_steps=100, timestep_scaling=2.5), ["lcm"], ["default"], [6]),
    "listed": (SD | dict(trained_betas=LIST, num_train_timesteps=400), ALL, ["default"], [6]),
}


def wave(draw, phase):
    """Stands for noise and latents: the same numbers in Rust."""
    values = [1.5 * np.sin(1.7 * draw + 0.9 * i + phase) for i in range(int(np.prod(SHAPE)))]
    return torch.tensor(values, dtype=torch.float64).reshape(SHAPE).float()


def net(xs, timestep):
    return torch.tanh(xs * 0.8 + (float(timestep) / 1000 - 0.3))


def draws():
    """Replaces the generator's draws in the schedulers."""
    count = 0

    def draw(*args, **kwargs):
        nonlocal count
        count += 1
        return wave(count, 0.0)

    for name in ("euler_ancestral_discrete", "lcm"):
        getattr(diffusers.schedulers, f"scheduling_{name}").randn_tensor = draw


def sigma_at(scheduler, timestep):
    alpha = scheduler.alphas_cumprod[int(timestep)].double()
    return min(float(((1 - alpha) / alpha) ** 0.5), 1e8)  # infinite where the signal is rescaled to nothing


def run(sampler, config, sigmas, steps, strength):
    scheduler = CLASSES[sampler].from_config(config, **SIGMAS[sigmas])
    scheduler.set_timesteps(steps)
    skip = 0
    if strength is not None:
        skip = (steps - min(int(steps * strength), steps)) * scheduler.order
    timesteps = scheduler.timesteps[skip:]
    draws()
    if strength is None:
        latents = wave(0, 0.5) * scheduler.init_noise_sigma
    else:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skip)
        latents = scheduler.add_noise(wave(0, 1.0), wave(0, 0.5), timesteps[:1])
    if sampler in ("ddim", "pndm", "lcm"):
        levels = [sigma_at(scheduler, t) for t in timesteps]
        final = int(timesteps[-1]) - scheduler.config.num_train_timesteps // steps if sampler != "lcm" else -1
        alpha = float(scheduler.final_alpha_cumprod)
        last = sigma_at(scheduler, final) if final >= 0 else ((1 - alpha) / alpha) ** 0.5
        levels.append(0.0 if sampler == "lcm" else last)
    else:
        levels = scheduler.sigmas[skip:].tolist()
    rows = [[float(scheduler.init_noise_sigma), levels[-1], *latents.flatten().tolist()]]
    for t, level in zip(timesteps, levels):
        output = net(scheduler.scale_model_input(latents, t), t)
        latents = scheduler.step(output, t, latents).prev_sample
        rows.append([float(t), level, *latents.flatten().tolist()])
    return torch.tensor(rows, dtype=torch.float32)


def count(sampler, config, sigmas):
    """One number for each schedule of up to 1000 steps. diffusers' extra timestep -1 under trailing spacing is left out."""
    scheduler = CLASSES[sampler].from_config(config, **SIGMAS[sigmas])
    sums = []
    for steps in range(1, 1001 if sampler != "lcm" else 51):
        scheduler.set_timesteps(steps)
        times = scheduler.timesteps.double().numpy()
        times = times[times >= 0]
        fails = times.max() > (999 if sampler in ("ddim", "pndm") else 1000)
        if sampler in ("dpmpp-2m", "unipc"):
            fails |= bool((np.diff(scheduler.sigmas.numpy()[: len(times)]) >= 0).any())
        sums.append(float("nan") if fails else float((np.arange(1, len(times) + 1) * times).sum()))
    return torch.tensor(sums, dtype=torch.float64)


def main():
    logging.disable(logging.WARNING)
    OUT.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, config in GRID.items():
        for sampler in ALL:
            for sigmas in SIGMAS if sampler in WITH_SIGMAS else ["default"]:
                cases += [(name, config, sampler, sigmas, steps, None) for steps in (1, 2, 5, 10, 20, 25)]
                if name.endswith("epsilon"):
                    cases += [(name, config, sampler, sigmas, steps, strength)
                              for steps in (5, 20) for strength in (0.3, 0.6, 0.8, 1.0)]
    for name, (config, samplers, kinds, step_counts) in OTHERS.items():
        for sampler in samplers:
            for sigmas in kinds if sampler in WITH_SIGMAS else ["default"]:
                cases += [(name, config, sampler, sigmas, steps, None) for steps in step_counts]
                if name in ("sd", "runge-kutta"):
                    continue
                cases += [(name, config, sampler, sigmas, steps, 0.5) for steps in step_counts if sampler != "pndm"]
    runs = {}
    for name, config, sampler, sigmas, steps, strength in cases:
        key = f"{name}/{sampler}/{sigmas}/{steps}/{'-' if strength is None else strength}"
        try:
            rows = run(sampler, config, sigmas, steps, strength)
        except (IndexError, AssertionError) as error:
            # Where the first timestep appears twice, diffusers starts at the second and runs out of levels.
            print(f"diffusers fails, left out: {key}: {error}")
            continue
        if not rows.isfinite().all():
            print(f"not finite, left out: {key}")
            continue
        runs[key] = rows
    save_file(runs, OUT / "runs.safetensors")
    counts = {}
    for spacing in ("leading", "linspace", "trailing"):
        name = f"{spacing}-epsilon"
        for sampler in ("ddim", "euler", "dpmpp-2m", "unipc"):
            counts[f"{name}/{sampler}/default"] = count(sampler, GRID[name], "default")
    counts["linspace-epsilon/lcm/default"] = count("lcm", GRID["linspace-epsilon"], "default")
    for sampler, sigmas in (("dpmpp-2m", "karras"), ("unipc", "exponential")):
        counts[f"linspace-epsilon/{sampler}/{sigmas}"] = count(sampler, GRID["linspace-epsilon"], sigmas)
    save_file(counts, OUT / "counts.safetensors")
    uncond, cond = (torch.cat([wave(2 * i + j, 0.2) for j in range(2)]) for i in range(2))
    guided = uncond + 7.5 * (cond - uncond)
    save_file(dict(uncond=uncond, cond=cond, guided=guided, rescaled=rescale_noise_cfg(guided, cond, guidance_rescale=0.7)),
              OUT / "guidance.safetensors")
    configs = GRID | {name: other[0] for name, other in OTHERS.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(config)}" for name, config in configs.items()]
    (OUT / "configs.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for path in sorted(OUT.iterdir()):
        print(f"{path}: {path.stat().st_size} bytes")
    print(f"{len(runs)} runs, {len(counts)} tables of step counts, diffusers {diffusers.__version__}")


if __name__ == "__main__":
    main()
