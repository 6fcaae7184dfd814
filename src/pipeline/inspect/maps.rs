//! The strongest maps of a layer, as pictures.

use ::image::{Rgb, RgbImage};
use candle_core::{Device, Tensor};

use super::answers;
use crate::error::Result;

/// How many maps of each layer are shown.
pub(super) const SHOWN: usize = 4;

/// Maps more alike than this show nothing new.
const ALIKE: f32 = 0.85;

/// From no answer to the strongest: ink, violet, red, orange, cream.
const COLOURS: [[f32; 3]; 5] =
    [[14.0, 12.0, 34.0], [88.0, 26.0, 110.0], [196.0, 52.0, 84.0], [246.0, 148.0, 62.0], [253.0, 244.0, 200.0]];

/// The maps of `[1, channels, height, width]` that answer most, passing over those that look like one chosen before.
pub(super) fn strongest(features: &Tensor, count: usize) -> Result<Vec<(usize, RgbImage)>> {
    let features = features.to_device(&Device::Cpu)?;
    let (_, _, height, width) = features.dims4()?;
    let power = answers(&features)?;
    let mut order: Vec<usize> = (0..power.len()).collect();
    order.sort_by(|&a, &b| power[b].total_cmp(&power[a]));
    let mut chosen: Vec<(usize, Vec<f32>)> = Vec::new();
    let mut alike = Vec::new();
    for &channel in &order {
        let map = features.get(0)?.get(channel)?.flatten_all()?.to_vec1::<f32>()?;
        if chosen.len() == count || (power[channel] <= 0.0 && !chosen.is_empty()) {
            break;
        }
        if chosen.iter().any(|(_, other)| correlation(&map, other) > ALIKE) {
            alike.push((channel, map));
        } else {
            chosen.push((channel, map));
        }
    }
    // A small network may have nothing else.
    let missing = count.saturating_sub(chosen.len());
    chosen.extend(alike.into_iter().take(missing));
    Ok(chosen.into_iter().map(|(channel, map)| (channel, coloured(&map, width, height))).collect())
}

/// How alike two maps look, from -1 to 1.
fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let mean = |xs: &[f32]| xs.iter().sum::<f32>() / xs.len().max(1) as f32;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut both, mut alone_a, mut alone_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        both += a * b;
        alone_a += a * a;
        alone_b += b * b;
    }
    let size = (alone_a * alone_b).sqrt();
    if size > 0.0 { both / size } else { 1.0 }
}

/// Values from 0 to their largest as colours from dark to bright.
fn coloured(map: &[f32], width: usize, height: usize) -> RgbImage {
    // A few single peaks must not leave the rest in the dark.
    let mut sorted = map.to_vec();
    sorted.sort_by(f32::total_cmp);
    let most = sorted.get((sorted.len().saturating_sub(1)) * 995 / 1000).copied().unwrap_or(0.0).max(f32::MIN_POSITIVE);
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let value = map[y as usize * width + x as usize] / most;
        Rgb(colour(if value.is_nan() { 0.0 } else { value }))
    })
}

/// The colour of a value from 0 to 1.
pub(super) fn colour(value: f32) -> [u8; 3] {
    let steps = (COLOURS.len() - 1) as f32;
    let at = value.clamp(0.0, 1.0) * steps;
    let first = (at as usize).min(COLOURS.len() - 2);
    let part = at - first as f32;
    [0, 1, 2].map(|channel| {
        let (low, high) = (COLOURS[first][channel], COLOURS[first + 1][channel]);
        (low + (high - low) * part).round() as u8
    })
}
