//! Latent consistency sampling: Luo et al., 2023, algorithm 3. Each step jumps to the clean latents and adds fresh noise.

use candle_core::Tensor;

use super::{Denoise, Noise, OnStep, noise_like};
use crate::Result;
use crate::diffusion::schedule::Schedule;

/// The deviation of clean latents that consistency models assume.
const SIGMA_DATA: f64 = 0.5;

pub(super) fn lcm(
    denoise: &mut Denoise<'_>,
    mut xs: Tensor,
    schedule: &Schedule,
    noise: &mut Noise<'_>,
    on_step: &mut OnStep<'_>,
) -> Result<Tensor> {
    let scaling = schedule.config().timestep_scaling.unwrap_or(10.0);
    for eval in schedule.evaluations() {
        let denoised = schedule.clip(denoise(&xs, eval)?)?;
        // The boundary condition: at timestep 0 the input is the answer.
        let time = eval.timestep * scaling;
        let keep = SIGMA_DATA * SIGMA_DATA / (time * time + SIGMA_DATA * SIGMA_DATA);
        let take = time / time.hypot(SIGMA_DATA);
        xs = ((denoised * take)? + (xs * (keep / eval.sigma.hypot(1.0)))?)?;
        let level = schedule.level_after(eval.index);
        if level > 0.0 {
            xs = (&xs + (noise_like(&xs, noise)? * level)?)?;
        }
        xs = on_step(&eval, xs, level)?;
    }
    Ok(xs)
}
