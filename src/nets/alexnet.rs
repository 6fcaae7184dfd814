//! AlexNet's convolutions as torchvision has them, for LPIPS: a picture to the features of its five layers.
//!
//! Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::ops::Conv2d;

/// The smallest side of a picture that something is left of.
pub const LEAST_SIDE: u32 = 31;

/// torchvision's number of each convolution in `features`, its kernel, stride and padding, and whether a pool comes before.
const LAYERS: [(usize, usize, usize, usize, bool); 5] =
    [(0, 11, 4, 2, false), (3, 5, 1, 2, true), (6, 3, 1, 1, true), (8, 3, 1, 1, false), (10, 3, 1, 1, false)];
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The five convolutions.
#[derive(Debug, Clone)]
pub struct AlexNet {
    layers: Vec<(bool, Conv2d)>,
    mean: Tensor,
    std: Tensor,
}

impl AlexNet {
    /// Loads `features.0` to `features.10`, as wide as they are.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen.
    pub fn new(vb: VarBuilder<'_>) -> Result<Self> {
        let vb = vb.set_dtype(DType::F32).pp("features");
        let (mut layers, mut inputs) = (Vec::new(), 3);
        for (number, kernel, stride, padding, pooled) in LAYERS {
            let vb = vb.pp(number);
            let outputs = vb.get_unchecked("weight")?.dims().first().copied().unwrap_or(0);
            layers.push((pooled, Conv2d::new(inputs, outputs, kernel, stride, padding, vb)?));
            inputs = outputs;
        }
        let column = |values| Tensor::from_slice(values, (1, 3, 1, 1), vb.device());
        Ok(Self { layers, mean: column(&MEAN)?, std: column(&STD)? })
    }

    /// The features of a picture `[batch, 3, height, width]`, RGB from 0 to 1, after each rectifier.
    ///
    /// # Errors
    /// When a side is below [`LEAST_SIDE`].
    pub fn features(&self, image: &Tensor) -> Result<Vec<Tensor>> {
        let (_, _, height, width) = image.dims4()?;
        if height.min(width) < LEAST_SIDE as usize {
            let reason = format!("{width} x {height} pixels are too few for AlexNet");
            return Err(Error::usage("picture", reason).with_hint(format!("it needs {LEAST_SIDE} a side")));
        }
        let image = image.to_device(self.mean.device())?.to_dtype(DType::F32)?;
        let mut xs = image.broadcast_sub(&self.mean)?.broadcast_div(&self.std)?;
        let mut found = Vec::new();
        for (pooled, conv) in &self.layers {
            if *pooled {
                xs = xs.max_pool2d_with_stride(3, 2)?;
            }
            xs = conv.forward_relu(&xs)?;
            found.push(xs.clone());
        }
        Ok(found)
    }
}
