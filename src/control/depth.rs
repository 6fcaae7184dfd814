//! Depth maps, near is white: what transformers' depth-estimation pipeline makes of a Depth Anything model.

use ::image::{GrayImage, RgbImage};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::image::resize;
use crate::nets::depth::{DepthNet, Estimation};
use crate::ops::Resample;

/// The most patches a picture may have: attention grows with their square. A square picture has 1369.
const MAX_PATCHES: usize = 16_384;
/// Pillow's number for bicubic.
const BICUBIC: u8 = 3;

/// How the picture is prepared: a `preprocessor_config.json` of the DPT kind. Keys it lacks take what all Depth Anything
/// models have.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Processor {
    /// The size the picture is brought near to.
    pub size: Size,
    /// Whether the picture keeps its shape (up to rounding).
    pub keep_aspect_ratio: bool,
    /// What both sides are multiples of: the patch.
    pub ensure_multiple_of: u32,
    /// Pillow's number of the filter; only 3, bicubic, is supported.
    pub resample: u8,
    /// Subtracted from the pixels, which lie in 0..1.
    pub image_mean: [f32; 3],
    /// Divides what is left.
    pub image_std: [f32; 3],
}

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Size {
    /// Pixels down.
    pub height: u32,
    /// Pixels across.
    pub width: u32,
}

impl Default for Processor {
    fn default() -> Self {
        Self {
            size: Size { height: 518, width: 518 },
            keep_aspect_ratio: true,
            ensure_multiple_of: 14,
            resample: BICUBIC,
            image_mean: [0.485, 0.456, 0.406],
            image_std: [0.229, 0.224, 0.225],
        }
    }
}

impl Processor {
    /// The picture as the net takes it: `[1, 3, height, width]` in f32 on the CPU, equal to `DPTImageProcessorPil`.
    ///
    /// # Errors
    /// When the filter is another one, or the picture is so long and thin that it has too many patches.
    pub fn preprocess(&self, picture: &RgbImage) -> Result<Tensor> {
        if self.resample != BICUBIC {
            let reason = format!("resample {} is not supported, only {BICUBIC} (bicubic)", self.resample);
            return Err(Error::usage("the depth model's preprocessor_config.json", reason));
        }
        let (width, height) = self.fitted(picture)?;
        let resized = resize::bicubic(picture, width, height)?;
        let mut values = Vec::with_capacity(3 * width as usize * height as usize);
        for channel in 0..3 {
            let (mean, std) = (self.image_mean[channel], self.image_std[channel]);
            // Rescaled in double precision, normalised in single, as numpy does there.
            let value = |byte: u8| ((f64::from(byte) * (1.0 / 255.0)) as f32 - mean) / std;
            values.extend(resized.pixels().map(|pixel| value(pixel.0[channel])));
        }
        Ok(Tensor::from_vec(values, (1, 3, height as usize, width as usize), &Device::Cpu)?)
    }

    /// Width and height for the net: scaled as little as possible, both multiples of the patch.
    fn fitted(&self, picture: &RgbImage) -> Result<(u32, u32)> {
        let (width, height) = (f64::from(picture.width()), f64::from(picture.height()));
        let mut across = f64::from(self.size.width) / width;
        let mut down = f64::from(self.size.height) / height;
        if self.keep_aspect_ratio {
            if (1.0 - across).abs() < (1.0 - down).abs() {
                down = across;
            } else {
                across = down;
            }
        }
        let multiple = self.ensure_multiple_of.max(1);
        // At least one patch; transformers would fail at none.
        let fit = |side: f64| (side / f64::from(multiple)).round_ties_even().max(1.0);
        let (columns, rows) = (fit(across * width), fit(down * height));
        if columns * rows > MAX_PATCHES as f64 || (columns * rows).is_nan() {
            let reason = format!("a picture of {width} x {height} is too long and thin for a depth map");
            return Err(Error::usage("depth", reason).with_hint("crop it"));
        }
        Ok((columns as u32 * multiple, rows as u32 * multiple))
    }
}

/// A depth model ready to make maps.
#[derive(Debug, Clone)]
pub struct Depth {
    net: DepthNet,
    processor: Processor,
    device: Device,
}

impl Depth {
    /// A net on its device, with the preparation that goes with it.
    pub fn new(net: DepthNet, processor: Processor, device: Device) -> Self {
        Self { net, processor, device }
    }

    /// The depth map, of the picture's size: the nearest point 255, the farthest 0.
    ///
    /// # Errors
    /// When the picture does not fit the model, or the tensor library fails.
    pub fn map(&self, picture: &RgbImage) -> Result<GrayImage> {
        let pixels = self.processor.preprocess(picture)?.to_device(&self.device)?;
        let depth = self.net.forward(&pixels)?.to_dtype(DType::F32)?.unsqueeze(1)?;
        let (width, height) = picture.dimensions();
        let depth = Resample::Bicubic.apply(&depth, height as usize, width as usize)?;
        let values = depth.flatten_all()?.to_vec1::<f32>()?;
        let (low, high) = values
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)));
        // Cut, not rounded, as the pipeline does. A picture of one depth is black.
        let byte = |value: f32| ((value - low) / (high - low) * 255.0) as u8;
        let bytes = match self.net.config().depth_estimation_type {
            Estimation::Relative => values.into_iter().map(byte).collect(),
            // Metric models say far with large numbers, and ControlNets were trained on near as white. Differs on
            // purpose from the pipeline, which leaves such maps inverted.
            Estimation::Metric => values.into_iter().map(|value| 255 - byte(value)).collect(),
        };
        GrayImage::from_raw(width, height, bytes)
            .ok_or_else(|| Error::usage("depth", format!("no map of {width} x {height} came out")))
    }
}
