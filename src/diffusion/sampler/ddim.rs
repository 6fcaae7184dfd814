//! DDIM without added noise: Song et al., 2020, equation 12, with eta = 0.

use candle_core::Tensor;

use super::{Denoise, OnStep, relabel};
use crate::Result;
use crate::diffusion::schedule::Schedule;

pub(super) fn ddim(
    denoise: &mut Denoise<'_>,
    mut xs: Tensor,
    schedule: &Schedule,
    on_step: &mut OnStep<'_>,
) -> Result<Tensor> {
    for eval in schedule.evaluations() {
        let denoised = denoise(&xs, eval)?;
        let noise = ((xs - &denoised)? / eval.sigma)?;
        // The clean latents may be clipped; the noise is that of the unclipped ones.
        let denoised = schedule.clip(denoised)?;
        // A step goes a fixed stride down, which is not always where the next one starts.
        let reached = schedule.level_at(eval.timestep as i64 - schedule.stride());
        xs = (denoised + (noise * reached)?)?;
        let level = schedule.level_after(eval.index);
        xs = on_step(&eval, relabel(xs, reached, level)?, level)?;
    }
    Ok(xs)
}
