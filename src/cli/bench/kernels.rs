//! Single layers with the shapes that they have in a Stable Diffusion 1.5, so that a kernel can be judged by itself.

use super::{Bench, Timing};
use crate::cli::machine;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use impasto::Result;
use impasto::ops::{self, Conv2d, GroupNorm, LayerNorm, Linear};
use std::collections::HashMap;

/// Convolutions: inputs, outputs, kernel, stride, and the side that they see as a share of the latents'.
const CONVOLUTIONS: [(usize, usize, usize, usize, f64); 10] = [
    (320, 320, 3, 1, 1.0),
    (960, 320, 3, 1, 1.0),
    (640, 640, 3, 1, 0.5),
    (1280, 1280, 3, 1, 0.25),
    (2560, 1280, 3, 1, 0.125),
    (320, 320, 3, 2, 1.0),
    (960, 320, 1, 1, 1.0),
    // Of the VAE.
    (512, 512, 3, 1, 1.0),
    (256, 256, 3, 1, 4.0),
    (128, 128, 3, 1, 8.0),
];
/// Linear layers: inputs, outputs, and the side whose positions they map.
const LINEARS: [(usize, usize, f64); 4] = [(320, 1280, 1.0), (1280, 320, 1.0), (1280, 5120, 0.25), (1280, 5120, 0.125)];
/// Attention of eight heads: their width, the side of the queries, and the keys where they are not the same.
const ATTENTIONS: [(usize, f64, Option<usize>); 4] =
    [(40, 1.0, None), (80, 0.5, None), (160, 0.25, None), (40, 1.0, Some(77))];
const HEADS: usize = 8;

impl Bench<'_> {
    pub(super) fn kernels(&mut self) -> Result<Vec<Timing>> {
        let mut timings = Vec::new();
        let batch = usize::from(self.args.batch);
        let (height, width) = self.latent();
        let sides = |share: f64| {
            let part = |side: u64| ((side as f64 * share) as usize).max(1);
            (part(height), part(width))
        };
        let mut row = |name: String, seconds: Vec<f64>, work: Option<u64>| {
            timings.push(Timing { peak_memory_bytes: machine::peak_memory(), ..Timing::new(name, seconds, work) });
        };
        for (inputs, outputs, kernel, stride, share) in CONVOLUTIONS {
            let (height, width) = sides(share);
            let weight = self.random(&[outputs, inputs, kernel, kernel], self.dtype)?;
            let conv = Conv2d::from_tensors(weight, Some(self.random(&[outputs], self.dtype)?), stride, kernel / 2);
            let xs = self.random(&[batch, inputs, height, width], self.dtype)?;
            let pixels = height.div_ceil(stride) * width.div_ceil(stride);
            let work = batch * pixels * inputs * outputs * kernel * kernel;
            let name = format!("conv{kernel}x{kernel}/{stride} {inputs}-{outputs} {width}x{height}");
            row(name, self.time(|| conv.forward(&xs).map(drop))?, Some(work as u64));
        }
        for (inputs, outputs, share) in LINEARS {
            let (height, width) = sides(share);
            let rows = height * width;
            let weight = self.random(&[outputs, inputs], self.dtype)?;
            let linear = Linear::from_tensors(weight, Some(self.random(&[outputs], self.dtype)?));
            let xs = self.random(&[batch, rows, inputs], self.dtype)?;
            let seconds = self.time(|| linear.forward(&xs).map(drop))?;
            row(format!("linear {inputs}-{outputs} {rows}"), seconds, Some((batch * rows * inputs * outputs) as u64));
        }
        for (head, share, keys) in ATTENTIONS {
            let (height, width) = sides(share);
            let (queries, keys) = (height * width, keys.unwrap_or(height * width));
            let q = self.random(&[batch, HEADS, queries, head], self.dtype)?;
            let (k, v) = (
                self.random(&[batch, HEADS, keys, head], self.dtype)?,
                self.random(&[batch, HEADS, keys, head], self.dtype)?,
            );
            let seconds = self.time(|| ops::attention(&q, &k, &v, (head as f64).powf(-0.5), None).map(drop))?;
            let work = 2 * batch * HEADS * queries * keys * head;
            row(format!("attention {HEADS}x{head} {queries}x{keys}"), seconds, Some(work as u64));
        }
        let (height, width) = sides(1.0);
        let (channels, xs) = (320, self.random(&[batch, 320, height, width], self.dtype)?);
        let ones = |name: &str| -> Result<(String, Tensor)> {
            Ok((name.to_owned(), Tensor::ones(channels, self.dtype, &self.device)?))
        };
        let tensors = HashMap::from([ones("weight")?, ones("bias")?]);
        let vb = VarBuilder::from_tensors(tensors, self.dtype, &self.device);
        let norm = GroupNorm::new(32, channels, 1e-5, vb.clone())?;
        row(
            format!("group-norm+silu {channels} {width}x{height}"),
            self.time(|| norm.forward_silu(&xs).map(drop))?,
            None,
        );
        let tokens = xs.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let norm = LayerNorm::new(channels, 1e-5, vb)?;
        row(format!("layer-norm {channels} {}", height * width), self.time(|| norm.forward(&tokens).map(drop))?, None);
        let gate = self.random(&[batch, height * width, 4 * channels], self.dtype)?;
        row(format!("gelu {} {}", 4 * channels, height * width), self.time(|| ops::gelu(&gate).map(drop))?, None);
        Ok(timings)
    }
}
