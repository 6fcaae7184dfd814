//! The CLIP image encoder's picture: transformers' `CLIPImageProcessorPil`, the Pillow backend, number for number.
//!
//! (transformers' torchvision backend gives slightly different pixels.)

use ::image::RgbImage;
use candle_core::{Device, Tensor};

use super::resize;
use crate::error::{Error, Result};

const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Resizes the short side to `size` (bicubic), crops the middle, and normalises: `[1, 3, size, size]` in f32.
///
/// What the long side has beyond `size` is lost: this is the reference's behaviour for style images that are not square.
///
/// # Errors
/// When the picture is so long and thin that its resized long side exceeds the limits of [`super::read`].
pub fn preprocess(picture: &RgbImage, size: usize) -> Result<Tensor> {
    let (width, height) = picture.dimensions();
    let side = u32::try_from(size).map_err(|_| Error::usage("image size", format!("{size} is too large")))?;
    // Python's int(size * long / short): a double, cut.
    let long = |long: u32, short: u32| (f64::from(side) * f64::from(long) / f64::from(short)) as u32;
    let (wide, high) = if width <= height { (side, long(height, width)) } else { (long(width, height), side) };
    let resized = resize::bicubic(picture, wide, high)?;
    let (left, top) = ((wide - side) / 2, (high - side) / 2);
    let mut values = vec![0f32; 3 * size * size];
    for (channel, plane) in values.chunks_exact_mut((size * size).max(1)).enumerate() {
        for (i, value) in plane.iter_mut().enumerate() {
            let (x, y) = ((i % size) as u32, (i / size) as u32);
            let byte = resized.get_pixel(left + x, top + y).0[channel];
            // The rescaling is done in double precision and the normalisation in single, as numpy does there.
            let unit = (f64::from(byte) * (1.0 / 255.0)) as f32;
            *value = (unit - MEAN[channel]) / STD[channel];
        }
    }
    Ok(Tensor::from_vec(values, (1, 3, size, size), &Device::Cpu)?)
}
