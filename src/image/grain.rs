//! Grain: faint irregular noise laid over a photo, for the nets to make strokes of. A net that has to paint strokes into an
//! even sky without it can only repeat itself, and weaves.

use std::collections::VecDeque;

use ::image::RgbImage;
use rayon::prelude::*;

use crate::rng::white;

/// The deviation of the grain's Gaussian, in pixels, and how far its window reaches.
const SIGMA: f64 = 1.5;
const REACH: usize = 5;

/// Rows that a thread lays at a time.
const AT_ONCE: usize = 64;

/// The grain of a picture row by row from the first one on and without end, `width` values of mean 0 and variance 1 in each.
///
/// It depends on position and `number` only: a part of a picture has the grain of the whole, and a still camera the same in
/// every frame. Independent noise, blurred so that it has something to hold on to.
pub fn rows(width: usize, number: u32) -> impl Iterator<Item = Vec<f32>> {
    rows_from(0, width, number)
}

fn rows_from(first: usize, width: usize, number: u32) -> impl Iterator<Item = Vec<f32>> {
    let kernel: Vec<f32> =
        (0..=2 * REACH).map(|at| (-(at as f64 - REACH as f64).powi(2) / (2.0 * SIGMA * SIGMA)).exp() as f32).collect();
    // The variance of a weighed sum of independent values, both ways.
    let scale = 1.0 / kernel.iter().map(|weight| weight * weight).sum::<f32>();
    let across = {
        let kernel = kernel.clone();
        move |y: usize| -> Vec<f32> {
            let fine: Vec<f32> = (0..width + 2 * REACH).map(|x| white(x, y, number)).collect();
            fine.windows(kernel.len()).map(|part| part.iter().zip(&kernel).map(|(a, b)| a * b).sum()).collect()
        }
    };
    let mut near: VecDeque<Vec<f32>> = (first..first + 2 * REACH).map(&across).collect();
    (first + 2 * REACH..).map(move |y| {
        near.push_back(across(y));
        let mut row = vec![0.0; width];
        for (part, weight) in near.iter().zip(&kernel) {
            for (sum, value) in row.iter_mut().zip(part) {
                *sum += scale * weight * value;
            }
        }
        near.pop_front();
        row
    })
}

/// Lays grain of deviation `amount`, in the steps of a byte, over a picture; the same in all three channels.
pub fn lay(picture: &mut RgbImage, amount: f32, number: u32) {
    let width = picture.width() as usize;
    let line = 3 * width.max(1);
    picture.par_chunks_mut(AT_ONCE * line).enumerate().for_each(|(part, lines)| {
        for (pixels, grain) in lines.chunks_exact_mut(line).zip(rows_from(part * AT_ONCE, width, number)) {
            for (pixel, grain) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(grain) {
                // A cast keeps to the range.
                *pixel = pixel.map(|value| (f32::from(value) + amount * grain + 0.5) as u8);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grain_has_mean_0_and_variance_1_and_holds_together() {
        let (width, height) = (200, 300);
        let grain: Vec<Vec<f32>> = rows(width, 4).take(height).collect();
        let all: Vec<f64> = grain.iter().flatten().map(|&value| f64::from(value)).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        // Of blurred noise, neighbours have exp(-d^2 / (4 sigma^2)) in common, both ways.
        let common = |dx: usize, dy: usize| {
            let pairs = (0..height - dy).flat_map(|y| (0..width - dx).map(move |x| (x, y)));
            let products: Vec<f64> = pairs.map(|(x, y)| f64::from(grain[y][x] * grain[y + dy][x + dx])).collect();
            products.iter().sum::<f64>() / products.len() as f64
        };
        for (dx, dy) in [(1, 0), (0, 1), (2, 0), (0, 2), (8, 0), (0, 8)] {
            let exact = (-((dx * dx + dy * dy) as f64) / (4.0 * SIGMA * SIGMA)).exp();
            assert!((common(dx, dy) - exact).abs() < 0.05, "{dx} {dy}: {} {exact}", common(dx, dy));
        }
    }

    #[test]
    fn a_part_has_the_grain_of_the_whole_and_every_number_its_own() {
        let whole: Vec<Vec<f32>> = rows(40, 7).take(20).collect();
        let part: Vec<Vec<f32>> = rows(25, 7).take(9).collect();
        assert!(part.iter().zip(&whole).all(|(part, whole)| part[..] == whole[..25]));
        let other: Vec<Vec<f32>> = rows(40, 8).take(20).collect();
        assert_ne!(whole, other);
        let mut flat = RgbImage::from_pixel(64, 64, ::image::Rgb([128, 254, 0]));
        lay(&mut flat, 2.0, 7);
        let seen: Vec<f64> = flat.pixels().map(|pixel| f64::from(pixel.0[0]) - 128.0).collect();
        let variance = seen.iter().map(|value| value * value).sum::<f64>() / seen.len() as f64;
        assert!((variance - 4.0).abs() < 0.6, "{variance}");
        assert!(flat.pixels().any(|pixel| pixel.0[1] == 255) && flat.pixels().any(|pixel| pixel.0[2] == 0));
    }
}
