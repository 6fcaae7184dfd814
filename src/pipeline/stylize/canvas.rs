//! Sizes and shapes: how large a photo is painted, how a mask is fitted to it, and what is done about pictures that are
//! smaller than a net can look at.

use ::image::{GrayImage, RgbImage, imageops};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::image::{resize, tensor};
use crate::progress::{OnProgress, Progress, Stage};

/// How far a mask's shape may be from the photo's: a mask made at another size is a pixel off after rounding.
const SHAPE_TOLERANCE: f64 = 0.02;

/// The most pixels that a feed-forward net paints. In strips it holds no more than its coarsest features, but of this many
/// pixels they take some gigabytes.
const MAX_PIXELS: u64 = 100_000_000;

/// Width and height with the long side at `long` and the shape kept, no side below 1.
pub fn with_long_side((width, height): (u32, u32), long: u32) -> (u32, u32) {
    let scale = f64::from(long) / f64::from(width.max(height).max(1));
    let side = |side: u32| ((f64::from(side) * scale).round() as u32).clamp(1, long.max(1));
    (side(width), side(height))
}

/// The size for a method that paints a photo as it is, at any size that fits into memory.
///
/// # Errors
/// When it is larger than fits into memory.
pub fn own_size(photo: (u32, u32), size: Option<u32>) -> Result<(u32, u32)> {
    at_most(size.map_or(photo, |size| with_long_side(photo, size)), MAX_PIXELS)
}

/// The size, where it is not of more pixels than a method can hold.
///
/// # Errors
/// When it is.
pub fn at_most((width, height): (u32, u32), pixels: u64) -> Result<(u32, u32)> {
    if u64::from(width) * u64::from(height) > pixels {
        let reason = format!("{width}x{height} is more than {} million pixels", pixels / 1_000_000);
        let shrink = (pixels as f64 / (f64::from(width) * f64::from(height))).sqrt();
        let side = (f64::from(width.max(height)) * shrink) as u32 / 100 * 100;
        return Err(Error::usage("--size", reason).with_hint(format!("choose a shorter long side: --size {side}")));
    }
    Ok((width, height))
}

/// Tells that a pass through a net begins (0) or is done (1).
///
/// # Errors
/// When the work is to stop.
pub fn report(on_progress: &mut OnProgress<'_>, done: u64) -> Result<()> {
    report_of(on_progress, done, 1)
}

/// Tells how many of several passes are done.
///
/// # Errors
/// When the work is to stop.
pub fn report_of(on_progress: &mut OnProgress<'_>, done: u64, total: u64) -> Result<()> {
    on_progress(&Progress { stage: Stage::Stylize, done, total, label: String::new() })
}

/// A picture at another size, by Lanczos; as it is where the size is its own.
///
/// # Errors
/// When the size is beyond the limits of [`crate::image::read`].
pub fn resized(picture: &RgbImage, (width, height): (u32, u32)) -> Result<RgbImage> {
    if picture.dimensions() == (width, height) { Ok(picture.clone()) } else { resize::lanczos(picture, width, height) }
}

/// A mask for a picture of `photo`'s size that is painted at `canvas`: a mask of the photo's shape is scaled to fit, soft
/// edges and all.
///
/// # Errors
/// When the mask has another shape than the photo: where it belongs would be a guess.
pub fn fit_mask(mask: &GrayImage, photo: (u32, u32), canvas: (u32, u32)) -> Result<GrayImage> {
    let (width, height) = mask.dimensions();
    // The height the mask would have at the photo's width.
    let expected = f64::from(height) * f64::from(photo.0) / f64::from(width.max(1));
    let off = (expected - f64::from(photo.1)).abs();
    if off > 1.0 && off > SHAPE_TOLERANCE * f64::from(photo.1) {
        let reason = format!("is {width}x{height}, the photo {}x{}: another shape", photo.0, photo.1);
        return Err(
            Error::usage("--mask", reason).with_hint("crop the mask as the photo is cropped; the size may differ")
        );
    }
    if mask.dimensions() == canvas { Ok(mask.clone()) } else { resize::bicubic_grey(mask, canvas.0, canvas.1) }
}

/// `painted` where the mask is white, `photo` where it is black, and the two mixed in between. All three of one size.
pub fn compose(photo: &RgbImage, mut painted: RgbImage, mask: &GrayImage) -> RgbImage {
    for ((painted, photo), mask) in painted.pixels_mut().zip(photo.pixels()).zip(mask.pixels()) {
        let weight = u32::from(mask.0[0]);
        for (painted, &photo) in painted.0.iter_mut().zip(&photo.0) {
            let sum = u32::from(*painted) * weight + u32::from(photo) * (255 - weight);
            *painted = ((sum + 127) / 255) as u8;
        }
    }
    painted
}

/// Two pictures of one size mixed: `weight` 1 is the second.
pub fn mix(first: &RgbImage, mut second: RgbImage, weight: f64) -> RgbImage {
    const AT_ONCE: usize = 1 << 16;
    let weight = weight as f32;
    first.par_chunks(AT_ONCE).zip(second.par_chunks_mut(AT_ONCE)).for_each(|(first, second)| {
        for (second, &first) in second.iter_mut().zip(first) {
            let (from, to) = (f32::from(first), f32::from(*second));
            // A cast keeps to the range.
            *second = (from + (to - from) * weight + 0.5) as u8;
        }
    });
    second
}

/// A net's output `[1, 3, height, width]` in 0..1 as a picture.
///
/// # Errors
/// When the net produced values that are not numbers.
pub fn picture(painted: &Tensor) -> Result<RgbImage> {
    if !painted.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?.is_finite() {
        return Err(Error::usage("painting", "the net produced values that are not numbers")
            .with_hint("the net's file is damaged, or it is a net of another kind"));
    }
    let picture = tensor::from_unit(painted)?.pop();
    picture.ok_or_else(|| Error::usage("painting", "the net produced none"))
}

/// A picture with its margin repeated to the right and below until both sides are at least `side`: nets pad by mirroring,
/// and a picture of a few pixels has nothing to mirror.
pub fn at_least(picture: RgbImage, side: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    if width >= side && height >= side {
        return picture;
    }
    RgbImage::from_fn(width.max(side), height.max(side), |x, y| *picture.get_pixel(x.min(width - 1), y.min(height - 1)))
}

/// The upper left part of a picture: what [`at_least`] added is cut off again.
pub fn cut(picture: RgbImage, (width, height): (u32, u32)) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture;
    }
    imageops::crop_imm(&picture, 0, 0, width, height).to_image()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_side_is_what_was_asked_for() {
        assert_eq!(with_long_side((4000, 3000), 512), (512, 384));
        assert_eq!(with_long_side((3000, 4000), 512), (384, 512));
        assert_eq!(with_long_side((20_000, 1), 512), (512, 1));
        assert_eq!(with_long_side((1, 1), 64), (64, 64));
        assert_eq!(with_long_side((640, 427), 640), (640, 427));
    }

    #[test]
    fn a_mask_of_the_same_shape_is_scaled_and_another_refused() {
        let mask = GrayImage::from_fn(100, 50, |x, _| ::image::Luma([if x < 50 { 0 } else { 255 }]));
        assert_eq!(fit_mask(&mask, (640, 320), (320, 160)).unwrap().dimensions(), (320, 160));
        assert_eq!(fit_mask(&mask, (641, 320), (641, 320)).unwrap().dimensions(), (641, 320));
        let error = fit_mask(&mask, (320, 320), (320, 320)).unwrap_err();
        assert!(error.to_string().contains("100x50") && error.to_string().contains("320x320"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_grey_mask_mixes() {
        let photo = RgbImage::from_pixel(3, 1, ::image::Rgb([0, 100, 200]));
        let painted = RgbImage::from_pixel(3, 1, ::image::Rgb([255, 0, 200]));
        let mask = GrayImage::from_raw(3, 1, vec![0, 255, 51]).unwrap();
        let out = compose(&photo, painted, &mask);
        assert_eq!(out.get_pixel(0, 0).0, [0, 100, 200]);
        assert_eq!(out.get_pixel(1, 0).0, [255, 0, 200]);
        assert_eq!(out.get_pixel(2, 0).0, [51, 80, 200]);
    }

    #[test]
    fn mixing_goes_from_one_picture_to_the_other() {
        let first = RgbImage::from_pixel(1, 1, ::image::Rgb([0, 100, 200]));
        let second = RgbImage::from_pixel(1, 1, ::image::Rgb([200, 100, 0]));
        assert_eq!(mix(&first, second.clone(), 0.0), first);
        assert_eq!(mix(&first, second.clone(), 1.0), second);
        assert_eq!(mix(&first, second, 0.25).get_pixel(0, 0).0, [50, 100, 150]);
    }

    #[test]
    fn small_pictures_grow_and_come_back() {
        let small = RgbImage::from_fn(1, 2, |_, y| ::image::Rgb([y as u8 * 9; 3]));
        let grown = at_least(small.clone(), 16);
        assert_eq!((grown.dimensions(), grown.get_pixel(15, 15).0), ((16, 16), [9; 3]));
        assert_eq!(cut(grown, (1, 2)), small);
    }
}
