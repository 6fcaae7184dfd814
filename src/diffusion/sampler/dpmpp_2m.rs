//! DPM-Solver++ as a multistep method: Lu et al., 2022 (2211.01095), algorithm 2; the order is the configuration's, 2 by
//! default. With lambda = -ln(sigma), everything is exact but for the predictions' change over a step.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::{Denoise, OnStep, relabel};
use crate::Result;
use crate::diffusion::schedule::Schedule;

/// A prediction of the clean latents and the level it was made at.
type Seen = (Tensor, f64);

pub(super) fn dpmpp_2m(
    denoise: &mut Denoise<'_>,
    mut xs: Tensor,
    schedule: &Schedule,
    on_step: &mut OnStep<'_>,
) -> Result<Tensor> {
    let config = schedule.config();
    let order = config.solver_order.unwrap_or(2);
    // As diffusers counts: the steps of the whole run, also where image to image runs its end only.
    let short = config.lower_order_final.unwrap_or(true) && schedule.begin() + schedule.timesteps.len() < 15;
    let last_alone = config.euler_at_final.unwrap_or(false) || short;
    let by_heun = config.solver_type.as_deref() == Some("heun");
    let mut seen: VecDeque<Seen> = VecDeque::with_capacity(order);
    for eval in schedule.evaluations() {
        let to = schedule.sigmas[eval.index + 1];
        seen.truncate(order - 1);
        seen.push_front((denoise(&xs, eval)?, eval.sigma));
        let left = eval.total - eval.index;
        let usable = match left {
            1 if last_alone || to == 0.0 => 1,
            2 if short => 2,
            _ => order,
        };
        seen.truncate(usable);
        xs = step(xs, seen.make_contiguous(), to, by_heun)?;
        let level = schedule.level_after(eval.index);
        xs = on_step(&eval, if left == 1 { relabel(xs, to, 0.0)? } else { xs }, level)?;
    }
    Ok(xs)
}

/// One step to the level `to`, with the newest prediction first.
fn step(xs: Tensor, seen: &[Seen], to: f64, by_heun: bool) -> Result<Tensor> {
    let Some((newest, from)) = seen.first() else { return Ok(xs) };
    if to == *from {
        return Ok(xs);
    }
    let length = (from / to).ln();
    let decay = to / from - 1.0; // e^-h - 1
    let xs = ((xs * (to / from))? - (newest * decay)?)?;
    let slope = |newer: &Seen, older: &Seen| (&newer.0 - &older.0)? * (length / (older.1 / newer.1).ln());
    match seen {
        [first, second] => {
            let factor = if by_heun { decay / length + 1.0 } else { -0.5 * decay };
            Ok((xs + (slope(first, second)? * factor)?)?)
        }
        [first, second, third] => {
            let (near, far) = (slope(first, second)?, slope(second, third)?);
            let near_part = (second.1 / first.1).ln() / length;
            let both_parts = near_part + (third.1 / second.1).ln() / length;
            let bend = (&near - far)?;
            let slope = (near + (&bend * (near_part / both_parts))?)?;
            let xs = (xs + (slope * (decay / length + 1.0))?)?;
            Ok((xs - (bend * (((decay + length) / (length * length) - 0.5) / both_parts))?)?)
        }
        _ => Ok(xs),
    }
}
