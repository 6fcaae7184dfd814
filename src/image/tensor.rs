//! Pictures to tensors and back, as diffusers' `VaeImageProcessor` does. All tensors are f32 on the CPU.

use ::image::{GrayImage, RgbImage};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Pieces a picture is converted in, at the same time.
const PARTS: usize = 8;

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
    let mut values = vec![0f32; 3 * width * height];
    let rows = height.div_ceil(PARTS).max(1);
    for (channel, plane) in values.chunks_exact_mut((width * height).max(1)).enumerate() {
        plane.par_chunks_mut(rows * width).zip(picture.as_raw().par_chunks(3 * rows * width)).for_each(|(to, from)| {
            for (to, pixel) in to.iter_mut().zip(from.as_chunks::<3>().0) {
                *to = table[usize::from(pixel[channel])];
            }
        });
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
    pictures(images, unit_to_byte)
}

fn pictures(images: &Tensor, byte: impl Fn(f32) -> u8 + Sync) -> Result<Vec<RgbImage>> {
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
            let part = height.div_ceil(PARTS).max(1) * width;
            let mut bytes = vec![0u8; 3 * plane];
            bytes.par_chunks_mut((3 * part).max(1)).enumerate().for_each(|(index, to)| {
                let from = [0, 1, 2].map(|channel| values[channel * plane + index * part..].iter());
                let [red, green, blue] = from;
                for (((to, &red), &green), &blue) in to.as_chunks_mut::<3>().0.iter_mut().zip(red).zip(green).zip(blue)
                {
                    *to = [byte(red), byte(green), byte(blue)];
                }
            });
            RgbImage::from_raw(w, h, bytes).ok_or_else(|| Error::usage("picture", "has more pixels than fit"))
        })
        .collect()
}

/// -1..1 to a byte, rounded half to even as numpy does. Not-a-number becomes 0.
fn to_byte(value: f32) -> u8 {
    unit_to_byte(value * 0.5 + 0.5)
}

/// 0..1 to a byte, likewise.
#[allow(clippy::manual_clamp)] // which would keep not-a-number
fn unit_to_byte(value: f32) -> u8 {
    // Above 2^23 there are no fractions: the sum is rounded to the nearest whole number, half to even, and its last
    // byte is that number. `max` turns not-a-number into 0.
    let scaled = value.max(0.0).min(1.0) * 255.0;
    (scaled + 8_388_608.0).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_half_to_even_and_come_back() {
        for step in -300..=66_000 {
            let value = step as f32 / 65_536.0;
            let wanted = (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
            assert_eq!(unit_to_byte(value), wanted, "{value}");
        }
        let halves = [(0.5f32, 0), (1.5, 2), (2.5, 2), (254.5, 254)];
        assert!(
            halves.iter().all(|&(value, byte)| value / 255.0 * 255.0 != value || unit_to_byte(value / 255.0) == byte)
        );
        assert_eq!([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0].map(unit_to_byte), [0, 255, 0, 0]);
        // More rows than parts, and fewer.
        for (width, height) in [(5, 37), (3, 2), (1, 1), (17, 8)] {
            let picture =
                RgbImage::from_fn(width, height, |x, y| ::image::Rgb([x as u8 * 7, y as u8 * 5, (x * y) as u8]));
            assert_eq!(from_unit(&to_unit(&picture).unwrap()).unwrap()[0], picture);
            assert_eq!(to_pictures(&to_signed(&picture).unwrap()).unwrap()[0], picture);
        }
    }
}
