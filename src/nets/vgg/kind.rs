//! The perceptual networks that are known, how their tensors are named, and the pixels they expect.

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};

/// Whose weights a chain of VGG convolutions has: this decides names, widths, padding, pools and the pixels expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// torchvision's VGG-16 (timm's `vgg16.tv_in1k` is the same): RGB, each channel brought to mean 0 and variance 1.
    Vgg16,
    /// torchvision's VGG-19 (timm's `vgg19.tv_in1k` is the same).
    Vgg19,
    /// The VGG group's own VGG-16 for Caffe: BGR from 0 to 255, less the mean colour.
    Vgg16Caffe,
    /// The VGG group's own VGG-19 for Caffe, the one Gatys et al. used.
    Vgg19Caffe,
    /// AdaIN's encoder, `vgg_normalised.pth`: Caffe's VGG-19 rescaled, with mirrored edges and its pixels' preparation as
    /// a first layer.
    VggNormalised,
    /// The VGG-16 inside HED, the edge detector: conv1 to conv4 are close to Caffe's.
    Hed,
    /// VGG-19 distilled to a sixteenth of its size for Collaborative Distillation's WCT, up to block 1 to 5 (`se1`..`se5`).
    /// 1x1 heads lead back to the width of VGG-19's `relu1_1`, `relu2_1`, ..
    Distilled(u8),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vgg16 => write!(f, "VGG-16"),
            Self::Vgg19 => write!(f, "VGG-19"),
            Self::Vgg16Caffe => write!(f, "Caffe's VGG-16"),
            Self::Vgg19Caffe => write!(f, "Caffe's VGG-19"),
            Self::VggNormalised => write!(f, "AdaIN's VGG-19"),
            Self::Hed => write!(f, "HED's VGG-16"),
            Self::Distilled(block) => write!(f, "VGG-19 distilled to a sixteenth, up to block {block}"),
        }
    }
}

/// Convolutions per block.
const BLOCKS_16: [usize; 5] = [2, 2, 3, 3, 3];
const BLOCKS_19: [usize; 5] = [2, 2, 4, 4, 4];

/// How the tensors of a chain are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// `features.0`, `features.2`, ..: torch's numbering of convolution, rectifier and pool.
    Features,
    /// `0`, `2`, ..: the same without the prefix.
    Numbered,
    /// `2`, `5`, ..: with the preparation as 0 and a padding before each convolution.
    Padded,
    /// `conv1_1`, `conv1_2`, ..
    Caffe,
    /// `conv11`, `conv12`, ..
    Short,
}

impl Names {
    /// The name of convolution `index` (from 1) of block `block` (from 1), `before` convolutions from the start.
    pub(super) fn conv(self, block: usize, index: usize, before: usize) -> String {
        match self {
            Self::Features => format!("features.{}", 2 * before + block - 1),
            Self::Numbered => format!("{}", 2 * before + block - 1),
            Self::Padded => format!("{}", 3 * before + block + 1),
            Self::Caffe => format!("conv{block}_{index}"),
            Self::Short => format!("conv{block}{index}"),
        }
    }
}

impl Kind {
    /// Tells a network by the names and shapes of its tensors. Files with torch's numbering count as torchvision's here;
    /// [`Self::told_by_weights`] looks closer.
    pub fn detect(shapes: impl Fn(&str) -> Option<Vec<usize>>) -> Option<Self> {
        let has = |name: &str| shapes(name).is_some();
        let kernel = |name: &str| shapes(name).filter(|shape| shape.len() == 4).map(|shape| shape[2]);
        if kernel("conv0.weight") == Some(1) && kernel("conv11.weight") == Some(3) {
            let deepest = (1..=5).rev().find(|block| has(&format!("conv{block}1.weight")))?;
            return Some(Self::Distilled(deepest));
        }
        if kernel("conv1_1.weight") == Some(3) {
            return Some(match (has("dsn1.weight"), has("conv3_4.weight")) {
                (true, _) => Self::Hed,
                (false, true) => Self::Vgg19Caffe,
                (false, false) => Self::Vgg16Caffe,
            });
        }
        if kernel("0.weight") == Some(1) && kernel("2.weight") == Some(3) {
            return Some(Self::VggNormalised);
        }
        for prefix in ["features.", ""] {
            let at = |number: usize| format!("{prefix}{number}.weight");
            // A vector after the first convolution is batch normalisation, which these chains do not have.
            if kernel(&at(0)) == Some(3) && kernel(&at(2)) == Some(3) && !has(&at(1)) {
                return Some(if kernel(&at(16)) == Some(3) { Self::Vgg19 } else { Self::Vgg16 });
            }
        }
        None
    }

    /// Tells Caffe's weights from torchvision's in files with torch's numbering, such as neural-style's
    /// `vgg19-d01eb7cb.pth`, by the first layer itself.
    ///
    /// The sizes of weights and biases say nothing: both trainings ended with much the same, although one saw pixels from
    /// 0 to 255. But all of Caffe's files descend from the VGG group's two nets, which began as one: their first eight
    /// biases and their first filters agree to a cosine of 0.99, and fine-tuning as far as HED's does not change that.
    /// torchvision's were trained from nothing (cosines below 0.1). So: Caffe's if both agree to 0.95.
    ///
    /// # Errors
    /// When the first layer cannot be read.
    pub fn told_by_weights(self, vb: &VarBuilder<'_>) -> Result<Self> {
        let caffe = match self {
            Self::Vgg16 => Self::Vgg16Caffe,
            Self::Vgg19 => Self::Vgg19Caffe,
            other => return Ok(other),
        };
        let name = self.names(vb).conv(1, 1, 0);
        let weight = vb.get_unchecked(&format!("{name}.weight"))?;
        let bias = vb.get_unchecked(&format!("{name}.bias"))?;
        let (outputs, inputs, ..) = weight.dims4()?;
        if outputs < CAFFE_BIASES.len()
            || inputs != 3
            || bias.dims() != [outputs]
            || weight.elem_count() != 27 * outputs
        {
            return Ok(self);
        }
        let biases = bias.narrow(0, 0, CAFFE_BIASES.len())?.to_vec1::<f32>()?;
        let filter = weight.get(0)?.sum(0)?.flatten_all()?.to_vec1::<f32>()?;
        let same = cosine(&biases, &CAFFE_BIASES) > 0.95 && cosine(&filter, &CAFFE_FILTER) > 0.95;
        Ok(if same { caffe } else { self })
    }

    /// Convolutions in each block of the chain.
    pub(super) fn blocks(self) -> Vec<usize> {
        match self {
            Self::Vgg16 | Self::Vgg16Caffe | Self::Hed => BLOCKS_16.to_vec(),
            Self::Vgg19 | Self::Vgg19Caffe | Self::VggNormalised => BLOCKS_19.to_vec(),
            Self::Distilled(deepest) => {
                let deepest = usize::from(deepest.clamp(1, 5));
                let mut blocks = BLOCKS_19[..deepest].to_vec();
                blocks[deepest - 1] = 1;
                blocks
            }
        }
    }

    /// How the tensors of this kind are called in this file.
    pub(super) fn names(self, vb: &VarBuilder<'_>) -> Names {
        match self {
            Self::VggNormalised => Names::Padded,
            Self::Distilled(_) => Names::Short,
            _ if vb.contains_tensor("features.0.weight") => Names::Features,
            _ if vb.contains_tensor("conv1_1.weight") => Names::Caffe,
            _ if vb.contains_tensor("0.weight") => Names::Numbered,
            Self::Vgg16 | Self::Vgg19 => Names::Features,
            Self::Vgg16Caffe | Self::Vgg19Caffe | Self::Hed => Names::Caffe,
        }
    }

    /// Whether pictures and maps are continued by their mirror image; zeros otherwise.
    pub(super) fn mirrors(self) -> bool {
        matches!(self, Self::VggNormalised | Self::Distilled(_))
    }

    /// Whether pools keep an odd last line. HED's do, as in Keras and in Caffe itself; Caffe's VGG files are known from
    /// PyTorch programs, whose pools drop it.
    pub(super) fn pools_up(self) -> bool {
        matches!(self, Self::VggNormalised | Self::Hed)
    }

    /// What brings RGB from 0 to 1 to the pixels expected: weight `[3, 3, 1, 1]` and bias `[3]` of a convolution.
    pub(super) fn preparation(self, vb: &VarBuilder<'_>, device: &Device) -> Result<(Tensor, Tensor)> {
        let (mean, std, bgr) = match self {
            Self::VggNormalised => return Ok((vb.get((3, 3, 1, 1), "0.weight")?, vb.get(3, "0.bias")?)),
            Self::Distilled(_) => return Ok((vb.get((3, 3, 1, 1), "conv0.weight")?, vb.get(3, "conv0.bias")?)),
            Self::Vgg16 | Self::Vgg19 => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], false),
            Self::Vgg16Caffe | Self::Vgg19Caffe => (CAFFE_MEAN, [1.0 / 255.0; 3], true),
            Self::Hed => (HED_MEAN, [1.0 / 255.0; 3], true),
        };
        let bgr = bgr && !self.reordered(vb)?;
        let mut weight = vec![0f32; 9];
        let mut bias = vec![0f32; 3];
        for channel in 0..3 {
            let from = if bgr { 2 - channel } else { channel };
            weight[3 * channel + from] = (1.0 / std[from]) as f32;
            bias[channel] = (-mean[from] / std[from]) as f32;
        }
        Ok((Tensor::from_vec(weight, (3, 3, 1, 1), device)?, Tensor::from_vec(bias, 3, device)?))
    }

    /// Whether somebody has turned Caffe's first layer round to take RGB, as torchvision's `IMAGENET1K_FEATURES` has it:
    /// told by two filters that answer to colour.
    fn reordered(self, vb: &VarBuilder<'_>) -> Result<bool> {
        let weight = vb.get_unchecked(&format!("{}.weight", self.names(vb).conv(1, 1, 0)))?;
        let (outputs, inputs, ..) = weight.dims4()?;
        if self == Self::Hed || inputs != 3 || outputs <= COLOURS[1].0 {
            return Ok(false);
        }
        let mut towards_rgb = 0.0;
        for (filter, colour) in COLOURS {
            let sums = weight.get(filter)?.sum((1, 2))?.to_vec1::<f32>()?;
            let turned: Vec<f32> = sums.iter().rev().copied().collect();
            towards_rgb += cosine(&turned, &colour) - cosine(&sums, &colour);
        }
        Ok(towards_rgb > 0.5)
    }

    /// What to say where there is no such net.
    pub(super) fn missing() -> Error {
        Error::usage("perceptual network", "the file holds no VGG-16, VGG-19, HED or distilled VGG without batch norm")
            .with_hint("`impasto weights pull vgg19` fetches one")
    }
}

/// The mean colour in R, G, B, from 0 to 1, as the VGG group gives it.
const CAFFE_MEAN: [f64; 3] = [123.68 / 255.0, 116.779 / 255.0, 103.939 / 255.0];
/// HED's is a little more precise.
const HED_MEAN: [f64; 3] = [122.678_92 / 255.0, 116.668_77 / 255.0, 104.006_99 / 255.0];

/// Where Caffe's nets are recognised: the first biases, and the first filter summed over its colours.
const CAFFE_BIASES: [f32; 8] = [0.734, 0.093, 0.068, 0.886, 0.26, 0.664, -0.016, 0.325];
const CAFFE_FILTER: [f32; 9] = [1.34, 1.07, -0.21, 0.83, 0.12, -1.1, -0.15, -0.77, -1.13];
/// Filters by number, and their sums for blue, green and red.
const COLOURS: [(usize, [f32; 3]); 2] = [(1, [0.77, 0.38, -1.06]), (5, [2.01, -1.25, -0.39])];

/// The cosine of the angle between two vectors; 0 where one is nothing.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let size = (dot(a, a) * dot(b, b)).sqrt();
    if size > 0.0 { dot(a, b) / size } else { 0.0 }
}
