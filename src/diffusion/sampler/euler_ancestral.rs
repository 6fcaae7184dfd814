//! Ancestral sampling with Euler's method: step below the next level, then add noise back up to it (k-diffusion).

use candle_core::Tensor;

use super::{Denoise, Noise, OnStep, noise_like};
use crate::Result;
use crate::diffusion::schedule::Schedule;

pub(super) fn euler_ancestral(
    denoise: &mut Denoise<'_>,
    mut xs: Tensor,
    schedule: &Schedule,
    noise: &mut Noise<'_>,
    on_step: &mut OnStep<'_>,
) -> Result<Tensor> {
    for eval in schedule.evaluations() {
        let (from, to) = (eval.sigma, schedule.sigmas[eval.index + 1]);
        let up = (to * to * (from * from - to * to) / (from * from)).max(0.0).sqrt();
        let down = (to * to - up * up).max(0.0).sqrt();
        let slope = ((&xs - denoise(&xs, eval)?)? / from)?;
        xs = (xs + (slope * (down - from))?)?;
        // Drawn in the last step too, where none is added: diffusers leaves the generator there.
        xs = (&xs + (noise_like(&xs, noise)? * up)?)?;
        xs = on_step(&eval, xs, schedule.level_after(eval.index))?;
    }
    Ok(xs)
}
