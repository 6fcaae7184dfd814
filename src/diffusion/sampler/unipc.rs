//! UniPC: Zhao et al., 2023, algorithms 5 and 6 with B(h): a multistep predictor, and a corrector that redoes the last
//! step with the prediction made at its end, at no further evaluation.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::{Denoise, OnStep, relabel};
use crate::Result;
use crate::diffusion::schedule::Schedule;

/// A prediction of the clean latents and the level it was made at.
type Seen = (Tensor, f64);

pub(super) fn unipc(
    denoise: &mut Denoise<'_>,
    mut xs: Tensor,
    schedule: &Schedule,
    on_step: &mut OnStep<'_>,
) -> Result<Tensor> {
    let config = schedule.config();
    let order = config.solver_order.unwrap_or(2);
    let lower_at_end = config.lower_order_final.unwrap_or(true);
    let plain = config.solver_type.as_deref() == Some("bh1");
    let corrects = |index: usize| {
        let step = schedule.begin() + index;
        !config.disable_corrector.as_ref().is_some_and(|off| off.contains(&step))
    };
    let mut seen: VecDeque<Seen> = VecDeque::with_capacity(order);
    let mut before: Option<Tensor> = None;
    for eval in schedule.evaluations() {
        let denoised = denoise(&xs, eval)?;
        if let Some(start) = before.take().filter(|_| corrects(eval.index - 1)) {
            xs = step(&start, seen.make_contiguous(), eval.sigma, Some(&denoised), plain)?;
        }
        seen.push_front((denoised, eval.sigma));
        let to = schedule.sigmas[eval.index + 1];
        let left = eval.total - eval.index;
        // A step to no noise has no end to extrapolate over: of first order whatever the configuration says.
        let order_now = if to == 0.0 {
            1
        } else if lower_at_end {
            order.min(left)
        } else {
            order
        };
        seen.truncate(order_now);
        let reached = step(&xs, seen.make_contiguous(), to, None, plain)?;
        before = Some(xs);
        let level = schedule.level_after(eval.index);
        xs = on_step(&eval, if left == 1 { relabel(reached, to, 0.0)? } else { reached }, level)?;
    }
    Ok(xs)
}

/// One step to the level `to` from the predictions before it, newest first, and for the corrector the one made there.
fn step(start: &Tensor, seen: &[Seen], to: f64, arrived: Option<&Tensor>, plain: bool) -> Result<Tensor> {
    let Some(((newest, from), older)) = seen.split_first().filter(|(newest, _)| newest.1 != to) else {
        return Ok(start.clone());
    };
    let length = (from / to).ln();
    let decay = to / from - 1.0; // e^-h - 1
    let mut xs = ((start * (to / from))? - (newest * decay)?)?;
    let scale = if plain { -length } else { decay };

    // Where the predictions lie, in steps from the newest; the end of the step is at 1.
    let mut places: Vec<f64> = older.iter().map(|(_, sigma)| (from / sigma).ln() / length).collect();
    places.extend(arrived.map(|_| 1.0));
    for (index, weight) in weights(&places, length, decay, scale).into_iter().enumerate() {
        let other = older.get(index).map(|(denoised, _)| denoised).or(arrived).unwrap_or(newest);
        xs = (xs - ((other - newest)? * (scale * weight / places[index]))?)?;
    }
    Ok(xs)
}

/// The weights that make the step exact for polynomials through the predictions: sum_j w_j r_j^i = b_i.
fn weights(places: &[f64], length: f64, decay: f64, scale: f64) -> Vec<f64> {
    // The lowest orders are simplified, as in the authors' code.
    if places.len() == 1 {
        return vec![0.5];
    }
    let mut phi = decay / -length - 1.0;
    let mut factorial = 1.0;
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(places.len());
    for power in 0..places.len() {
        let mut row: Vec<f64> = places.iter().map(|place| place.powi(power as i32)).collect();
        row.push(phi * factorial / scale);
        rows.push(row);
        factorial *= (power + 2) as f64;
        phi = phi / -length - 1.0 / factorial;
    }
    solve(rows)
}

/// Solves a small linear system, its right side in the last column, by elimination with pivoting.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let count = rows.len();
    for column in 0..count {
        let pivot = (column..count).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let lead = rows[column].clone();
        for (index, row) in rows.iter_mut().enumerate() {
            if index != column {
                let factor = row[column] / lead[column];
                row.iter_mut().zip(&lead).for_each(|(value, lead)| *value -= factor * lead);
            }
        }
    }
    rows.iter().enumerate().map(|(index, row)| row[count] / row[index]).collect()
}
