//! Sampling and decoding one picture from what was prepared. The order of random draws is diffusers'.

use ::image::{GrayImage, RgbImage};
use candle_core::{DType, Tensor};

use super::diffusion::Diffusion;
use super::fast::Fast;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::guidance::guide;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::{Evaluation, Schedule};
use crate::error::{Error, Result};
use crate::image::tensor;
use crate::nets::unet::{Context, Deep};
use crate::progress::{OnProgress, Progress, Stage};
use crate::rng::TorchRng;

/// Pictures above this many pixels pass through the VAE in tiles: whole, they would take tens of gigabytes.
pub(super) const MAX_WHOLE: usize = 1536 * 1536;

/// A request with everything done that does not depend on the seed.
#[derive(Debug)]
pub struct Prepared {
    /// What the user should know: a prompt that was cut, a size that was changed.
    pub warnings: Vec<String>,
    /// Width of the pictures in pixels.
    pub width: u32,
    /// Height of the pictures in pixels.
    pub height: u32,
    pub(super) sampler: Sampler,
    pub(super) schedule: Schedule,
    pub(super) denoiser: Denoiser,
    pub(super) guidance: Option<Guidance>,
    pub(super) fast: Fast,
    /// Under guidance a batch of two, the unconditional row first.
    pub(super) context: Context,
    pub(super) control: Option<Control>,
    pub(super) initial: Option<Initial>,
    pub(super) latents: Option<Tensor>,
}

impl Prepared {
    /// The map the ControlNet follows, at the picture's size.
    pub fn control_map(&self) -> Option<&RgbImage> {
        self.control.as_ref().map(|control| &control.map)
    }

    /// Evaluations of the UNet per picture.
    pub fn evaluations(&self) -> usize {
        self.schedule.timesteps.len()
    }
}

/// Classifier-free guidance, while it lasts.
#[derive(Debug)]
pub(super) struct Guidance {
    pub(super) scale: f64,
    pub(super) window: Window,
    /// What the UNet attends to outside of the window: the conditional row alone.
    pub(super) without: Context,
}

/// A start and an end as parts of the evaluations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) start: f64,
    pub(super) end: f64,
}

impl Window {
    /// Whether an evaluation lies in it; the reference's rule.
    fn holds(self, at: &Evaluation) -> bool {
        let total = at.total as f64;
        at.index as f64 / total >= self.start && (at.index + 1) as f64 / total <= self.end
    }
}

/// A ControlNet's part in a picture.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) hint: Tensor,
    pub(super) context: Context,
    pub(super) without_guidance: Context,
    pub(super) scale: f64,
    pub(super) window: Window,
    pub(super) map: RgbImage,
}

/// A picture to start from.
#[derive(Debug)]
pub(super) struct Initial {
    pub(super) picture: RgbImage,
    pub(super) latents: Tensor,
    pub(super) inpaint: Option<Inpaint>,
}

/// What is repainted of a picture.
#[derive(Debug)]
pub(super) struct Inpaint {
    /// At the picture's size; 128 and above is repainted.
    pub(super) mask: GrayImage,
    /// `[1, 1, h/8, w/8]` of 0 and 1.
    pub(super) latent_mask: Tensor,
    /// For a net trained to inpaint: mask and latents of the masked picture `[1, 5, h/8, w/8]`, appended to its input.
    pub(super) conditioning: Option<Tensor>,
    /// Strength 1: starts from noise alone.
    pub(super) whole: bool,
}

impl Diffusion {
    /// Samples and decodes the picture of a seed. `index` picks the row of the request's latents, where it has any.
    ///
    /// The noise is drawn on the host as torch's CPU generator draws it, so the same seed gives the same picture on every
    /// device.
    ///
    /// # Errors
    /// When memory runs out, the nets do not fit each other, or the work is stopped.
    pub fn paint(
        &mut self,
        prepared: &Prepared,
        seed: u64,
        index: usize,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<RgbImage> {
        let latents = self.sample(prepared, seed, index, on_progress)?;
        self.make_room_for_vae();
        let picture = self.decode(&latents, on_progress)?;
        Ok(match &prepared.initial {
            Some(Initial { picture: original, inpaint: Some(inpaint), .. }) => {
                keep_unmasked(picture, original, &inpaint.mask)
            }
            _ => picture,
        })
    }

    fn sample(
        &mut self,
        prepared: &Prepared,
        seed: u64,
        index: usize,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Tensor> {
        let (device, dtype) = (self.device().clone(), self.dtype());
        let downscale = self.vae_config().downscale();
        let channels = self.vae_config().latent_channels;
        let (height, width) = (prepared.height as usize / downscale, prepared.width as usize / downscale);
        let mut rng = TorchRng::new(seed);
        let first = match &prepared.latents {
            Some(latents) => latents.narrow(0, row(latents, index)?, 1)?,
            None => rng.normal(&[1, channels, height, width])?,
        };
        let first = first.to_device(&device)?;
        let schedule = &prepared.schedule;
        let start = match &prepared.initial {
            Some(Initial { inpaint: Some(inpaint), .. }) if inpaint.whole => schedule.start(&first)?,
            Some(initial) => schedule.noised(&initial.latents, &first, 0)?,
            None => schedule.start(&first)?,
        };
        let inpaint = prepared.initial.as_ref().and_then(|initial| Some((initial, initial.inpaint.as_ref()?)));
        let conditioning = inpaint.and_then(|(_, inpaint)| inpaint.conditioning.as_ref());
        let (unet, controlnet) = self.nets()?;

        let mut deep: Option<Deep> = None;
        let mut denoise = |xs: &Tensor, at: Evaluation| {
            prepared.denoiser.denoise(xs, at, |xs, timestep| {
                let guidance = prepared.guidance.as_ref().filter(|guidance| guidance.window.holds(&at));
                let context = match (&prepared.guidance, guidance) {
                    (Some(outside), None) => &outside.without,
                    _ => &prepared.context,
                };
                let twice = |xs: &Tensor| match guidance {
                    Some(_) => Tensor::cat(&[xs, xs], 0),
                    None => Ok(xs.clone()),
                };
                let plain = twice(&xs.to_dtype(dtype)?)?;
                let xs = match conditioning {
                    Some(conditioning) => Tensor::cat(&[&plain, &twice(&conditioning.to_dtype(dtype)?)?], 1)?,
                    None => plain.clone(),
                };
                let control = match (&prepared.control, controlnet) {
                    (Some(control), Some(net)) if control.window.holds(&at) => {
                        let context = if guidance.is_some() { &control.context } else { &control.without_guidance };
                        Some((control, net, context))
                    }
                    _ => None,
                };
                let kept =
                    deep.as_ref().filter(|kept| !prepared.fast.is_whole(at.index) && kept.batch() == context.batch());
                let out = match kept {
                    Some(deep) => {
                        let entry = control
                            .map(|(control, net, context)| net.entry(&plain, context, &control.hint, control.scale));
                        unet.forward_shallow(&xs, timestep, context, entry.transpose()?.as_ref(), deep)?
                    }
                    None => {
                        let residuals = control.map(|(control, net, context)| {
                            net.forward(&plain, timestep, context, &control.hint, control.scale)
                        });
                        let residuals = residuals.transpose()?;
                        let (out, kept) = unet.forward_keeping(&xs, timestep, context, residuals.as_ref())?;
                        deep = (prepared.fast != Fast::None).then_some(kept);
                        out
                    }
                };
                let out = out.to_dtype(DType::F32)?;
                match guidance {
                    Some(guidance) => guide(&out.narrow(0, 0, 1)?, &out.narrow(0, 1, 1)?, guidance.scale),
                    None => Ok(out),
                }
            })
        };
        let mut noise = |shape: &[usize]| Ok(rng.normal(shape)?.to_device(&device)?);
        let report = |done: usize, total: usize, on_progress: &mut OnProgress<'_>| {
            let label = "sampling".to_string();
            on_progress(&Progress { stage: Stage::Sample, done: done as u64, total: total as u64, label })
        };
        report(0, schedule.timesteps.len(), on_progress)?;
        let mut on_step = |at: &Evaluation, xs: Tensor, sigma: f64| {
            report(at.index + 1, at.total, on_progress)?;
            match inpaint {
                Some((initial, inpaint)) if conditioning.is_none() => {
                    // A plain net knows nothing of the mask: what is kept is put back at the noise level reached.
                    let known = if at.index + 1 < at.total {
                        schedule.noised(&initial.latents, &first, at.index + 1)?
                    } else {
                        (&initial.latents * sigma.hypot(1.0))?
                    };
                    let mask = &inpaint.latent_mask;
                    Ok((xs.broadcast_mul(mask)? + known.broadcast_mul(&(1.0 - mask)?)?)?)
                }
                _ => Ok(xs),
            }
        };
        prepared.sampler.sample(&mut denoise, start, schedule, &mut noise, &mut on_step)
    }

    fn decode(&mut self, latents: &Tensor, on_progress: &mut OnProgress<'_>) -> Result<RgbImage> {
        let mut report = |done: usize, total: usize| {
            let label = "decoding".to_string();
            on_progress(&Progress { stage: Stage::Decode, done: done as u64, total: total as u64, label })
        };
        report(0, 1)?;
        let latents = (latents / self.vae_config().scaling_factor)?;
        let (_, _, height, width) = latents.dims4()?;
        let pixels = height * width * self.vae_config().downscale().pow(2);
        let vae = self.load_vae()?;
        let decoded = if pixels > MAX_WHOLE {
            vae.decode_tiled(&latents, &mut report)?
        } else {
            let decoded = vae.decode(&latents)?;
            report(1, 1)?;
            decoded
        };
        let finite = decoded.sum_all()?.to_scalar::<f32>()?.is_finite();
        if !finite {
            return Err(Error::file(self.model_path(), "the nets produced values that are not numbers")
                .with_hint("compute in --dtype f32 or bf16; if it stays, the checkpoint is damaged"));
        }
        let mut pictures = tensor::to_pictures(&decoded)?;
        pictures.pop().ok_or_else(|| Error::usage("picture", "the decoder returned none"))
    }
}

fn row(latents: &Tensor, index: usize) -> Result<usize> {
    let rows = latents.dim(0)?;
    if index >= rows {
        let reason = format!("holds noise for {rows} pictures, picture {} was asked for", index + 1);
        return Err(Error::usage("--latents", reason).with_hint("lower --count"));
    }
    Ok(index)
}

/// Takes every pixel the mask keeps from the original: through the VAE they would come out changed.
fn keep_unmasked(mut painted: RgbImage, original: &RgbImage, mask: &GrayImage) -> RgbImage {
    for ((painted, original), mask) in painted.pixels_mut().zip(original.pixels()).zip(mask.pixels()) {
        if mask.0[0] < 128 {
            *painted = *original;
        }
    }
    painted
}
