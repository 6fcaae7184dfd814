//! Resizing as Pillow does it, bit for bit: a separable antialiased filter in fixed point, horizontal pass first, each pass
//! rounded to eight bits.
//!
//! Pillow's own two passes rather than a resizing library: libraries keep other precisions between the passes, which
//! moves pixels by one level, and the CLIP encoder and the init latents see that.

use std::f64::consts::PI;

use ::image::{GrayImage, ImageBuffer, Pixel, RgbImage};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Fraction bits of a weight: 32, less 8 for the pixel, less 2 for weights above one and their sum.
const PRECISION: u32 = 32 - 8 - 2;

/// Pillow's `resize((width, height), LANCZOS)`.
///
/// # Errors
/// When a side of the wanted size is 0 or beyond the limits of [`super::read`].
pub fn lanczos(picture: &RgbImage, width: u32, height: u32) -> Result<RgbImage> {
    resize(picture, width, height, &LANCZOS)
}

/// Pillow's `resize((width, height), BICUBIC)`.
///
/// # Errors
/// As [`lanczos`].
pub fn bicubic(picture: &RgbImage, width: u32, height: u32) -> Result<RgbImage> {
    resize(picture, width, height, &BICUBIC)
}

/// [`lanczos`] for grey pictures.
///
/// # Errors
/// As [`lanczos`].
pub fn lanczos_grey(picture: &GrayImage, width: u32, height: u32) -> Result<GrayImage> {
    resize(picture, width, height, &LANCZOS)
}

/// [`bicubic`] for grey pictures.
///
/// # Errors
/// As [`lanczos`].
pub fn bicubic_grey(picture: &GrayImage, width: u32, height: u32) -> Result<GrayImage> {
    resize(picture, width, height, &BICUBIC)
}

/// A filter kernel: its half width and its weight at a distance.
struct Filter {
    support: f64,
    weight: fn(f64) -> f64,
}

const LANCZOS: Filter = Filter { support: 3.0, weight: lanczos_weight };
const BICUBIC: Filter = Filter { support: 2.0, weight: bicubic_weight };

fn lanczos_weight(x: f64) -> f64 {
    fn sinc(x: f64) -> f64 {
        if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
    }
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// Keys' cubic with a = -0.5.
fn bicubic_weight(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

type Picture<P> = ImageBuffer<P, Vec<u8>>;

/// For one and three channels.
fn resize<P>(picture: &Picture<P>, width: u32, height: u32, filter: &Filter) -> Result<Picture<P>>
where
    P: Pixel<Subpixel = u8> + Sync,
{
    use super::read::{MAX_PIXELS, MAX_SIDE};
    let (from_width, from_height) = picture.dimensions();
    if width == 0 || height == 0 || from_width == 0 || from_height == 0 {
        let reason = format!("a {from_width} x {from_height} picture cannot be made {width} x {height}");
        return Err(Error::usage("resize", reason));
    }
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        let reason = format!("{width} x {height} is beyond the limits ({MAX_SIDE} a side, {MAX_PIXELS} pixels)");
        return Err(Error::usage("resize", reason));
    }
    // A pass that keeps its side is left out, as in Pillow: it would be exact anyway.
    let wide = match P::CHANNEL_COUNT {
        _ if width == from_width => picture.clone(),
        1 => horizontal::<P, 1>(picture, width, filter),
        _ => horizontal::<P, 3>(picture, width, filter),
    };
    Ok(if height == from_height { wide } else { vertical(&wide, height, filter) })
}

fn horizontal<P, const CHANNELS: usize>(picture: &Picture<P>, width: u32, filter: &Filter) -> Picture<P>
where
    P: Pixel<Subpixel = u8> + Sync,
{
    let taps = taps(picture.width(), width, filter);
    let mut out = Picture::<P>::new(width, picture.height());
    let rows = picture.as_raw().par_chunks_exact(picture.width() as usize * CHANNELS);
    let out_rows = out.as_flat_samples_mut().samples.par_chunks_exact_mut(width as usize * CHANNELS);
    out_rows.zip(rows).for_each(|(out_row, row)| {
        let (out_pixels, _) = out_row.as_chunks_mut::<CHANNELS>();
        let (pixels, _) = row.as_chunks::<CHANNELS>();
        for (out_pixel, tap) in out_pixels.iter_mut().zip(&taps) {
            let mut sums = [0; CHANNELS];
            for (pixel, &weight) in pixels[tap.start..].iter().zip(&tap.weights) {
                for (sum, &sample) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(sample) * weight;
                }
            }
            *out_pixel = sums.map(round);
        }
    });
    out
}

fn vertical<P: Pixel<Subpixel = u8> + Sync>(picture: &Picture<P>, height: u32, filter: &Filter) -> Picture<P> {
    let stride = picture.width() as usize * usize::from(P::CHANNEL_COUNT);
    let taps = taps(picture.height(), height, filter);
    let mut out = Picture::<P>::new(picture.width(), height);
    let source = picture.as_raw();
    let out_rows = out.as_flat_samples_mut().samples.par_chunks_exact_mut(stride);
    out_rows.zip(&taps).for_each_init(
        || vec![0i32; stride],
        |sums, (out_row, tap)| {
            sums.fill(0);
            let rows = source[tap.start * stride..].chunks_exact(stride);
            for (row, &weight) in rows.zip(&tap.weights) {
                for (sum, &sample) in sums.iter_mut().zip(row) {
                    *sum += i32::from(sample) * weight;
                }
            }
            for (value, &sum) in out_row.iter_mut().zip(&*sums) {
                *value = round(sum);
            }
        },
    );
    out
}

/// Fixed point to a byte: nearest, clamped.
fn round(sum: i32) -> u8 {
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

/// What one output pixel is made of: the first source pixel and the weights from there on.
struct Tap {
    start: usize,
    weights: Vec<i32>,
}

fn taps(from: u32, to: u32, filter: &Filter) -> Vec<Tap> {
    let scale = f64::from(from) / f64::from(to);
    // Shrinking widens the kernel over all the pixels that fall into one: that is the antialiasing.
    let stretch = scale.max(1.0);
    let support = filter.support * stretch;
    (0..to)
        .map(|i| {
            let center = (f64::from(i) + 0.5) * scale;
            // Casts cut towards zero, as in C.
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from as usize);
            let weight = |x| (filter.weight)((x as f64 - center + 0.5) * (1.0 / stretch));
            let weights: Vec<f64> = (start..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: f64| {
                let weight = if sum == 0.0 { weight } else { weight / sum };
                // Half away from zero.
                (weight * f64::from(1 << PRECISION) + 0.5f64.copysign(weight)) as i32
            };
            Tap { start, weights: weights.into_iter().map(fixed).collect() }
        })
        .collect()
}
