//! The timestep as the net sees it: sinusoids, then a small perceptron.
//!
//! Computed in f32 whatever the net's type: a timestep near 1000 times a frequency needs more digits than f16 has, and
//! bf16 cannot even tell the timesteps apart. All pictures of a batch share the timestep, so there is one row.
//! Reference: Ho et al. 2020 (arXiv:2006.11239), `get_timestep_embedding` of diffusers.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nets::unet::config::EncoderConfig;
use crate::ops::{self, Linear};

const MAX_PERIOD: f64 = 10_000.0;

/// `linear_1`, SiLU, `linear_2` over the sinusoids, plus the guidance embedding of distilled nets.
#[derive(Debug, Clone)]
pub(crate) struct TimeEmbedding {
    first: Linear,
    second: Linear,
    guidance: Option<(Linear, usize)>,
    width: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    device: Device,
    dtype: DType,
}

impl TimeEmbedding {
    pub(crate) fn new(config: &EncoderConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let dtype = vb.dtype();
        let device = vb.device().clone();
        let vb = vb.set_dtype(DType::F32);
        let width = config.blocks.first().map_or(0, |block| block.channels);
        let guidance = match config.guidance_width {
            None => None,
            Some(guidance_width) => {
                Some((Linear::without_bias(guidance_width, width, vb.pp("cond_proj"))?, guidance_width))
            }
        };
        Ok(Self {
            first: Linear::new(width, config.time_width, vb.pp("linear_1"))?,
            second: Linear::new(config.time_width, config.time_width, vb.pp("linear_2"))?,
            guidance,
            width,
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
            device,
            dtype,
        })
    }

    /// `[1, time_width]` in the net's type, SiLU applied: every residual block starts with it, so it is taken once here.
    pub(crate) fn forward(&self, timestep: f64, guidance: Option<&Tensor>) -> Result<Tensor> {
        if !timestep.is_finite() {
            return Err(Error::usage("timestep", format!("{timestep} is not a finite number")));
        }
        let half = self.width / 2;
        // f32 at every step of the way to the angle, as torch computes it: at timestep 999 the rounding shows.
        let angles: Vec<f32> = (0..half)
            .map(|index| {
                let exponent = -(MAX_PERIOD.ln() as f32) * index as f32 / (half as f64 - self.freq_shift) as f32;
                timestep as f32 * f64::from(exponent).exp() as f32
            })
            .collect();
        let sines = angles.iter().map(|&angle| f64::from(angle).sin() as f32);
        let cosines = angles.iter().map(|&angle| f64::from(angle).cos() as f32);
        let mut waves: Vec<f32> =
            if self.flip_sin_to_cos { cosines.chain(sines).collect() } else { sines.chain(cosines).collect() };
        waves.resize(self.width, 0.0);
        let mut waves = Tensor::from_vec(waves, (1, self.width), &self.device)?;
        if let Some(guidance) = guidance {
            waves = (waves + guidance)?;
        }
        let hidden = ops::silu(&self.first.forward(&waves)?)?;
        let embedded = ops::silu(&self.second.forward(&hidden)?)?;
        Ok(embedded.to_dtype(self.dtype)?)
    }

    /// What the guidance scale adds to the sinusoids, `[1, width]`; `None` for a net that takes no guidance.
    ///
    /// Reference: `get_guidance_scale_embedding` of diffusers, which embeds `scale - 1`.
    pub(crate) fn guidance(&self, scale: f64) -> Result<Option<Tensor>> {
        let Some((projection, width)) = &self.guidance else { return Ok(None) };
        if !scale.is_finite() {
            return Err(Error::usage("--guidance", format!("{scale} is not a finite number")));
        }
        let half = width / 2;
        let weight = (scale - 1.0) as f32 * 1000.0;
        let step = (MAX_PERIOD as f32).ln() / (half.max(2) - 1) as f32;
        let angles: Vec<f32> = (0..half).map(|index| weight * f64::from(index as f32 * -step).exp() as f32).collect();
        let mut waves: Vec<f32> = angles.iter().map(|&angle| f64::from(angle).sin() as f32).collect();
        waves.extend(angles.iter().map(|&angle| f64::from(angle).cos() as f32));
        waves.resize(*width, 0.0);
        Ok(Some(projection.forward(&Tensor::from_vec(waves, (1, *width), &self.device)?)?))
    }
}
