//! Pictures to tensors and back, as diffusers' `VaeImageProcessor` does. All tensors are f32 on the CPU.

use ::image::{GrayImage, RgbImage};
use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// `[1, 3, height, width]` in -1..1, what the VAE encoder takes.
///
/// # Errors
/// When the tensor library fails.
pub fn to_signed(picture: &RgbImage) -> Result<Tensor> {
    planes(picture, |byte| 2.0 * (f32::from(byte) / 255.0) - 1.0)
}

/// `[1, 3, height, width]` in 0..1, what a ControlNet takes.
///
/// # Errors
/// When the tensor library fails.
pub fn to_unit(picture: &RgbImage) -> Result<Tensor> {
    planes(picture, |byte| f32::from(byte) / 255.0)
}

fn planes(picture: &RgbImage, value: impl Fn(u8) -> f32) -> Result<Tensor> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let table: Vec<f32> = (0..=255).map(value).collect();
    let mut values = Vec::with_capacity(3 * width * height);
    for channel in 0..3 {
        values.extend(picture.pixels().map(|pixel| table[usize::from(pixel.0[channel])]));
    }
    Ok(Tensor::from_vec(values, (1, 3, height, width), &Device::Cpu)?)
}

/// `[1, 1, height, width]` of 0 (keep) and 1 (repaint), cut at one half.
///
/// # Errors
/// When the tensor library fails.
pub fn mask(picture: &GrayImage) -> Result<Tensor> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let values: Vec<f32> = picture.as_raw().iter().map(|&byte| if byte >= 128 { 1.0 } else { 0.0 }).collect();
    Ok(Tensor::from_vec(values, (1, 1, height, width), &Device::Cpu)?)
}

/// A batch `[n, 3, height, width]` in -1..1, on any device and in any float type, to pictures.
///
/// # Errors
/// When the tensor has another shape.
pub fn to_pictures(images: &Tensor) -> Result<Vec<RgbImage>> {
    pictures(images, to_byte)
}

/// A batch `[n, 3, height, width]` in 0..1, on any device and in any float type, to pictures. What lies outside is cut.
///
/// # Errors
/// When the tensor has another shape.
pub fn from_unit(images: &Tensor) -> Result<Vec<RgbImage>> {
    pictures(images, |value| (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8)
}

fn pictures(images: &Tensor, byte: impl Fn(f32) -> u8) -> Result<Vec<RgbImage>> {
    let (batch, channels, height, width) = images.dims4()?;
    let side = |side: usize| u32::try_from(side).ok();
    let (3, Some(w), Some(h)) = (channels, side(width), side(height)) else {
        return Err(Error::usage(
            "picture",
            format!("a tensor of shape {:?} is no batch of RGB pictures", images.dims()),
        ));
    };
    let images = images.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    (0..batch)
        .map(|i| {
            let values = images.get(i)?.flatten_all()?.to_vec1::<f32>()?;
            let plane = width * height;
            Ok(RgbImage::from_fn(w, h, |x, y| {
                let at = y as usize * width + x as usize;
                ::image::Rgb([0, 1, 2].map(|channel| byte(values[channel * plane + at])))
            }))
        })
        .collect()
}

/// -1..1 to a byte, rounded half to even as numpy does. Not-a-number becomes 0.
fn to_byte(value: f32) -> u8 {
    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}
