//! A picture's colours as a Gaussian: what is taken out of the photo before the net sees it, and put back in as the
//! painting's when the net is done. So the net paints in colours that have no name, and a palette it has never met comes out
//! as exactly as one it has learned.
//!
//! The whitening and colouring transform of Li et al., "Universal style transfer via feature transforms", 2017, on pixels.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use crate::error::Result;
use crate::ops::matrix3::{Matrix3, power};
use crate::ops::trainable::{Geometry, conv2d, relu};

/// Added to the variances (of values from 0 to 1) that the photo is divided by: a deviation of 8 steps of 255. The faint
/// colours of a nearly grey photo are mostly the noise of its compression.
pub const RIDGE: f64 = 1e-3;

/// Numbers of a palette in a style code: the mean, and the root of the covariance row by row.
pub(super) const WIDTH: usize = 12;

/// Mean and covariance (population) of the channels, values from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(in crate::nets) struct Palette {
    mean: [f64; 3],
    covariance: Matrix3,
}

impl Palette {
    /// Those of every picture of `[n, 3, h, w]`.
    pub(in crate::nets) fn all_of(pictures: &Tensor) -> Result<Vec<Self>> {
        (0..pictures.dim(0)?)
            .map(|index| {
                let picture = pictures.narrow(0, index, 1)?;
                Self::of_rows(picture.dim(2)?, picture.dim(2)?, &|rows| {
                    Ok(picture.narrow(2, rows.start, rows.len())?)
                })
            })
            .collect()
    }

    /// That of a picture of which `at_once` rows `[1, 3, rows, width]` are looked at at a time.
    pub(in crate::nets) fn of_rows(
        height: usize,
        at_once: usize,
        read: &dyn Fn(Range<usize>) -> Result<Tensor>,
    ) -> Result<Self> {
        let (mut sum, mut products, mut count) = ([0.0; 3], [[0.0; 3]; 3], 0.0);
        for first in (0..height).step_by(at_once.max(1)) {
            let rows = read(first..(first + at_once.max(1)).min(height))?.detach();
            // Around the middle of the range, so that the difference at the end loses little.
            let flat = (rows.to_dtype(DType::F32)?.flatten_from(2)?.squeeze(0)? - 0.5)?.contiguous()?;
            let pixels = flat.dim(1)? as f64;
            let sums = flat.sum(D::Minus1)?.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
            let squares = flat.matmul(&flat.t()?)?.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
            for row in 0..3 {
                sum[row] += f64::from(sums[row]);
                for column in 0..3 {
                    products[row][column] += f64::from(squares[row][column]);
                }
            }
            count += pixels;
        }
        let centred = sum.map(|sum| sum / count);
        let at = |row: usize, column: usize| products[row][column] / count - centred[row] * centred[column];
        let covariance = [0, 1, 2].map(|row| [0, 1, 2].map(|column| at(row, column)));
        Ok(Self { mean: centred.map(|mean| mean + 0.5), covariance })
    }

    /// For the style code, `[WIDTH]`.
    pub(in crate::nets) fn numbers(&self) -> Vec<f32> {
        let root = power(self.covariance, 0.5);
        self.mean.iter().chain(root.iter().flatten()).map(|&value| value as f32).collect()
    }

    /// The photo without its own colours: mean 0 and, but for [`RIDGE`], the unit covariance.
    pub(in crate::nets) fn out_of(&self, picture: &Tensor) -> Result<Tensor> {
        let mut covariance = self.covariance;
        (0..3).for_each(|channel| covariance[channel][channel] += RIDGE);
        let map = power(covariance, -0.5);
        let shift = [0, 1, 2].map(|row| -(0..3).map(|column| map[row][column] * self.mean[column]).sum::<f64>() as f32);
        let map: Vec<f32> = map.iter().flatten().map(|&value| value as f32).collect();
        let (device, dtype) = (picture.device(), picture.dtype());
        let map = Tensor::from_vec(map, (3, 3, 1, 1), device)?.to_dtype(dtype)?;
        conv2d(picture, &map, &Tensor::new(&shift, device)?.to_dtype(dtype)?, Geometry::same(1))
    }
}

/// Pictures `[n, 3, h, w]`, each without its own colours.
pub(super) fn bare(pictures: &Tensor) -> Result<Tensor> {
    let palettes = Palette::all_of(pictures)?.into_iter().enumerate();
    let bare = palettes.map(|(index, palette)| palette.out_of(&pictures.narrow(0, index, 1)?));
    Ok(Tensor::cat(&bare.collect::<Result<Vec<_>>>()?, 0)?)
}

/// Palettes for style codes, `[n, WIDTH]`.
pub(super) fn numbers(palettes: &[Palette], device: &Device) -> Result<Tensor> {
    let numbers: Vec<f32> = palettes.iter().flat_map(Palette::numbers).collect();
    Ok(Tensor::from_vec(numbers, (palettes.len(), WIDTH), device)?)
}

/// Pictures `[n, 3, h, w]` of mean 0 and variance 1 in the colours of a code's palette `[n, WIDTH]`; what lies outside of 0..1 is cut
/// off.
pub(super) fn colour(pictures: &Tensor, palette: &Tensor) -> Result<Tensor> {
    let batch = palette.dim(0)?;
    let coloured = |index: usize| -> Result<Tensor> {
        let palette = palette.get(index)?;
        let (mean, root) = (palette.narrow(0, 0, 3)?, palette.narrow(0, 3, 9)?.reshape((3, 3, 1, 1))?);
        conv2d(&pictures.narrow(0, index, 1)?, &root.contiguous()?, &mean.contiguous()?, Geometry::same(1))
    };
    let coloured = (0..batch).map(coloured).collect::<Result<Vec<_>>>()?;
    let coloured = if let [only] = coloured.as_slice() { only.clone() } else { Tensor::cat(&coloured, 0)? };
    // A cut at both ends, with gradients and without candle's slow way with constants.
    Ok((relu(&coloured)? - relu(&coloured.affine(1.0, -1.0)?)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_gets_its_own_colours_back() {
        let picture = Tensor::rand(0.1f32, 0.9, (2, 3, 40, 30), &Device::Cpu).unwrap();
        let palettes = Palette::all_of(&picture).unwrap();
        for (index, palette) in palettes.iter().enumerate() {
            let own = picture.narrow(0, index, 1).unwrap();
            let bare = palette.out_of(&own).unwrap();
            let numbers = numbers(&[*palette], &Device::Cpu).unwrap();
            // The ridge takes a little of the contrast.
            let difference = (colour(&bare, &numbers).unwrap() - own).unwrap().abs().unwrap().max_all().unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() < 5e-3);
            let again = Palette::all_of(&bare).unwrap()[0];
            assert!(again.mean.iter().all(|mean| mean.abs() < 1e-4), "{again:?}");
            for row in 0..3 {
                for column in 0..3 {
                    let wanted = if row == column { 1.0 } else { 0.0 };
                    assert!((again.covariance[row][column] - wanted).abs() < 0.03, "{again:?}");
                }
            }
        }
    }

    #[test]
    fn rows_at_a_time_come_to_the_same_and_one_colour_is_no_trouble() {
        let picture = Tensor::rand(0f32, 1.0, (1, 3, 17, 9), &Device::Cpu).unwrap();
        let read = |rows: Range<usize>| Ok(picture.narrow(2, rows.start, rows.len())?);
        let whole = Palette::all_of(&picture).unwrap()[0].numbers();
        let parts = Palette::of_rows(17, 4, &read).unwrap().numbers();
        assert!(whole.iter().zip(&parts).all(|(whole, part)| (whole - part).abs() < 1e-5));
        let flat = Tensor::full(0.3f32, (1, 3, 8, 8), &Device::Cpu).unwrap();
        let palette = Palette::all_of(&flat).unwrap()[0];
        let bare = palette.out_of(&flat).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(bare < 1e-3 && palette.numbers().iter().all(|value| value.is_finite()));
    }
}
