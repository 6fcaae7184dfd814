//! Regions: which part of the photo is painted after which part of which painting.

use ::image::GrayImage;
use candle_core::{Device, Tensor};

use super::tile::block;
use crate::error::{Error, Result};
use crate::image::resize;
use crate::ops::{Pooling, pool2};

/// A part of the photo with a style of its own. Greys are soft edges: such a place counts in part.
#[derive(Debug, Clone)]
pub struct Region {
    /// Where in the photo, white; of any size.
    pub content: GrayImage,
    /// Which of the style pictures, counted from 0.
    pub style: usize,
    /// Where in that picture; everywhere by default.
    pub within: Option<GrayImage>,
}

/// A mask, ready for every block of a network.
#[derive(Debug, Clone)]
pub(super) struct Mask {
    /// By block, from the picture's own size down.
    blocks: Vec<Tensor>,
    /// The part of the picture that it covers.
    pub(super) share: f64,
}

impl Mask {
    /// A mask for a picture of some size, its edges `feather` pixels wide.
    pub(super) fn new(
        mask: &GrayImage,
        (width, height): (u32, u32),
        feather: f64,
        blocks: usize,
        device: &Device,
    ) -> Result<Self> {
        let mask = resize::bicubic_grey(mask, width, height)?;
        let (width, height) = (width as usize, height as usize);
        let mut values: Vec<f32> = mask.as_raw().iter().map(|&byte| f32::from(byte) / 255.0).collect();
        // Three boxes are close to a bell.
        let radius = (feather / 2.0).round() as usize;
        for _ in 0..3 {
            values = blurred_rows(&values, width, radius);
            values = transposed(&values, width);
            values = blurred_rows(&values, height, radius);
            values = transposed(&values, height);
        }
        let share = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len().max(1) as f64;
        if share <= 0.0 {
            return Err(Error::usage("mask", "is black all over").with_hint("white is where the style goes"));
        }
        let mut blocks_of = vec![Tensor::from_vec(values, (1, 1, height, width), device)?];
        for block in 1..blocks {
            // Upwards, whatever the network does: a last line that it drops is cut off when the map is used.
            blocks_of.push(pool2(&blocks_of[block - 1], Pooling::Average, true)?);
        }
        Ok(Self { blocks: blocks_of, share })
    }

    /// At the size of a layer's features.
    pub(super) fn at(&self, layer: &str) -> &Tensor {
        &self.blocks[(block(layer) - 1).min(self.blocks.len() - 1)]
    }
}

/// Every value becomes the average of those up to `radius` away, the last ones continued beyond the ends.
fn blurred_rows(values: &[f32], width: usize, radius: usize) -> Vec<f32> {
    if radius == 0 {
        return values.to_vec();
    }
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks(width) {
        let at = |index: isize| f64::from(row[index.clamp(0, width as isize - 1) as usize]);
        let reach = radius as isize;
        let mut sum: f64 = (-reach..=reach).map(at).sum();
        for index in 0..width as isize {
            out.push((sum / (2 * radius + 1) as f64) as f32);
            sum += at(index + reach + 1) - at(index - reach);
        }
    }
    out
}

fn transposed(values: &[f32], width: usize) -> Vec<f32> {
    let height = values.len() / width;
    (0..values.len()).map(|index| values[index % height * width + index / height]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_widened_and_the_covered_part_stays() {
        let half = GrayImage::from_fn(64, 48, |x, _| ::image::Luma([if x < 32 { 255 } else { 0 }]));
        let sharp = Mask::new(&half, (64, 48), 0.0, 3, &Device::Cpu).unwrap();
        let soft = Mask::new(&half, (64, 48), 8.0, 3, &Device::Cpu).unwrap();
        let line = |mask: &Mask| mask.at("relu1_1").to_vec3_line();
        let (sharp_line, soft_line) = (line(&sharp), line(&soft));
        assert!(sharp_line[31] > 0.99 && sharp_line[32] < 0.01);
        assert!((0.3..0.7).contains(&soft_line[31]) && soft_line[10] > 0.99 && soft_line[60] < 0.01);
        assert!((sharp.share - 0.5).abs() < 1e-6 && (soft.share - 0.5).abs() < 1e-6);
        assert_eq!(sharp.at("relu3_1").dims(), [1, 1, 12, 16]);
        assert!(Mask::new(&GrayImage::new(8, 8), (64, 48), 0.0, 3, &Device::Cpu).is_err());
    }

    trait Line {
        fn to_vec3_line(&self) -> Vec<f32>;
    }

    impl Line for Tensor {
        fn to_vec3_line(&self) -> Vec<f32> {
            self.narrow(2, 5, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        }
    }
}
