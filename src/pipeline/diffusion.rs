//! The main job: prompt, style images and structure image to a picture with Stable Diffusion.
//!
//! [`Diffusion::open`] looks at the files, [`Diffusion::prepare`] runs everything that does not depend on the seed (text and
//! image encoders, attention keys and values, the ControlNet's hint), [`Diffusion::paint`] samples and decodes one picture.
//! Nets are loaded when first needed; those that only prepare are dropped before the UNet comes in, so that the peak is the
//! UNet's.

use std::path::{Path, PathBuf};

use ::image::RgbImage;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::paint::{Control, Guidance, Initial, Inpaint, MAX_WHOLE, Prepared, Window};
use super::request::Request;
use crate::device::Precision;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::schedule::{Schedule, SchedulerConfig};
use crate::error::{Error, Result};
use crate::image::{clip, resize, tensor};
use crate::nets::clip::text::{ClipText, ClipTextConfig};
use crate::nets::clip::tokenizer::Tokenizer;
use crate::nets::clip::vision::{ClipVision, ClipVisionConfig};
use crate::nets::controlnet::{ControlNet, ControlNetConfig};
use crate::nets::ip_adapter::{EncoderOutput, IpAdapter};
use crate::nets::unet::{Style, Unet, UnetConfig};
use crate::nets::vae::{Vae, VaeConfig};
use crate::progress::{OnProgress, Progress, Stage};
use crate::weights::load::Checkpoint;
use crate::weights::lora::Lora;
use crate::weights::model::{self, Model, Part, TokenizerSource};

/// The smallest side of a tile in pixels, for pictures too large for the VAE in one piece.
const MIN_TILE: usize = 512;

/// Where the nets come from, as paths that exist.
#[derive(Debug, Clone, Default)]
pub struct ModelPaths {
    /// A diffusers folder or a single-file checkpoint.
    pub model: PathBuf,
    /// LoRA files, and how strongly each acts (1 as it was trained).
    pub loras: Vec<(PathBuf, f64)>,
    /// An IP-Adapter file.
    pub ip_adapter: Option<PathBuf>,
    /// The CLIP vision encoder's folder or file.
    pub image_encoder: Option<PathBuf>,
    /// A ControlNet's folder or file.
    pub controlnet: Option<PathBuf>,
    /// Which of several precisions in the model's folder to read: `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
    pub variant: Option<String>,
    /// What the UNet predicts (`epsilon`, `v_prediction`) where the files do not say.
    pub prediction_type: Option<String>,
}

impl ModelPaths {
    /// Whether these mean the same checkpoint, whatever the adapters.
    pub fn same_model(&self, other: &Self) -> bool {
        let model = |paths: &Self| (paths.model.clone(), paths.variant.clone(), paths.prediction_type.clone());
        model(self) == model(other) && self.loras == other.loras
    }
}

/// A Stable Diffusion model with its adapters, ready to paint any number of pictures.
#[derive(Debug)]
pub struct Diffusion {
    paths: ModelPaths,
    model: Model,
    loras: Vec<(Lora, f64)>,
    device: Device,
    precision: Precision,
    tokenizer: Tokenizer,
    scheduler: SchedulerConfig,
    unet_config: UnetConfig,
    vae_config: VaeConfig,
    native: u32,
    unet: Option<Unet>,
    controlnet: Option<ControlNet>,
    vae: Option<Vae>,
    keep_loaded: bool,
    keep_encoded: bool,
    encoded: Option<Encoded>,
}

/// Prompt and style pictures through their encoders, and what they were made of.
#[derive(Debug)]
struct Encoded {
    words: (String, String),
    clip_skip: Option<usize>,
    guided: bool,
    pictures: Vec<RgbImage>,
    text: Tensor,
    style: Option<(IpAdapter, Tensor)>,
    warnings: Vec<String>,
}

impl Diffusion {
    /// Opens a model: reads its configurations and the headers of its weights, no weights yet.
    ///
    /// The UNet and the ControlNet compute in `precision`; the VAE and the text encoder always in f32, for the VAE overflows
    /// in f16 and the text is encoded once.
    ///
    /// # Errors
    /// When a file is missing, broken, or not of a kind this program can run.
    pub fn open(paths: &ModelPaths, device: &Device, precision: Precision) -> Result<Self> {
        let refused = match precision {
            Precision::Bf16 if device.is_cpu() => Some(("bf16 cannot be computed on a CPU", "use --dtype f32 or f16")),
            Precision::Int8 if !device.is_cpu() => Some(("int8 is computed on a CPU only", "use --dtype f16")),
            _ => None,
        };
        if let Some((reason, hint)) = refused {
            return Err(Error::usage("--dtype", reason).with_hint(hint));
        }
        let mut model = Model::open(&paths.model)?;
        if let Some(variant) = &paths.variant {
            model.set_variant(variant);
        }
        if let Some(prediction) = &paths.prediction_type {
            model.set_prediction_type(prediction)?;
        }
        let tokenizer = match model.tokenizer()? {
            TokenizerSource::Folder(folder) => Tokenizer::from_folder(folder)?,
            TokenizerSource::Clip => Tokenizer::clip()?,
            TokenizerSource::OpenClip => Tokenizer::open_clip()?,
        };
        let open = |(path, scale): &(PathBuf, f64)| Ok((Lora::open(path)?, *scale));
        let loras = paths.loras.iter().map(open).collect::<Result<_>>()?;
        let at_model = |error: Error| named(error, &paths.model);
        let scheduler = SchedulerConfig::from_json(&model.scheduler()?).map_err(at_model)?;
        let (unet_json, _) = model.part(Part::Unet)?;
        let unet_config = UnetConfig::from_json(&unet_json).map_err(at_model)?;
        let (vae_json, _) = model.part(Part::Vae)?;
        let mut vae_config: VaeConfig = parse(vae_json, &paths.model)?;
        // Tiles are as large as the pictures the VAE was trained on; smaller ones than these would show their seams.
        vae_config.sample_size = vae_config.sample_size.max(MIN_TILE);
        let latent_side = unet_json.get("sample_size").and_then(Value::as_u64).filter(|&side| side > 0 && side <= 512);
        let native = latent_side.unwrap_or(64) as u32 * vae_config.downscale() as u32;
        Ok(Self {
            paths: paths.clone(),
            model,
            loras,
            device: device.clone(),
            precision,
            tokenizer,
            scheduler,
            unet_config,
            vae_config,
            native,
            unet: None,
            controlnet: None,
            vae: None,
            keep_loaded: true,
            keep_encoded: false,
            encoded: None,
        })
    }

    /// Whether nets stay in memory between pictures (the default). Without it the UNet makes room for the VAE: less
    /// memory, and a reload for every further picture.
    pub fn keep_loaded(&mut self, keep: bool) {
        self.keep_loaded = keep;
    }

    /// Whether the encoded prompt and style pictures stay in memory for the next [`Diffusion::prepare`] with the same ones.
    /// Not by default: it takes the IP-Adapter's memory beside the UNet's.
    pub fn keep_encoded(&mut self, keep: bool) {
        self.keep_encoded = keep;
    }

    /// Changes the ControlNet and the IP-Adapter to those of `paths`. The model itself stays, loaded if it was; a net that
    /// changes is let go of.
    pub fn change_adapters(&mut self, paths: &ModelPaths) {
        if self.paths.controlnet != paths.controlnet {
            self.controlnet = None;
            self.paths.controlnet.clone_from(&paths.controlnet);
        }
        if (&self.paths.ip_adapter, &self.paths.image_encoder) != (&paths.ip_adapter, &paths.image_encoder) {
            self.encoded = None;
            self.paths.ip_adapter.clone_from(&paths.ip_adapter);
            self.paths.image_encoder.clone_from(&paths.image_encoder);
        }
    }

    /// Side length in pixels of the pictures the model was trained on.
    pub fn native_side(&self) -> u32 {
        self.native
    }

    /// Runs everything that does not depend on the seed.
    ///
    /// # Errors
    /// When a number is out of range, a file is broken, adapters do not fit the model, or the work is stopped.
    pub fn prepare(&mut self, request: &Request, on_progress: &mut OnProgress<'_>) -> Result<Prepared> {
        request.validate()?;
        let mut warnings = Vec::new();
        let ((width, height), note) = request.canvas(self.native)?;
        warnings.extend(note);
        let mut scheduler = self.scheduler.clone();
        if request.structure.is_none() {
            // The reference mends outdated files in every pipeline but the ControlNet's.
            scheduler = scheduler.corrected(request.sampler);
        }
        let schedule = Schedule::new(request.sampler, &scheduler, request.steps, request.sigmas)?;
        let schedule = if request.init.is_some() { schedule.from_strength(request.strength)? } else { schedule };
        self.check_latents(request, width, height)?;
        let inpainting_net = self.unet_config.in_channels() == 2 * self.vae_config.latent_channels + 1;
        if inpainting_net && request.mask.is_none() {
            return Err(Error::usage("--model", "is an inpainting checkpoint, which repaints part of a picture")
                .with_hint("give --init and --mask, or another model"));
        }
        let guided = request.guidance > 1.0 && self.unet_config.guidance_width().is_none();
        let with_style = !request.style.is_empty() && request.style_scale != 0.0;
        let with_control = request.structure.is_some() && request.control_scale != 0.0;

        let mut todo = Todo { done: 0, total: 2 + u64::from(with_style) + u64::from(with_control), on_progress };
        let encoded = match self.encoded.take().filter(|encoded| encoded.is_of(request, guided, with_style)) {
            Some(encoded) => encoded,
            None => self.encode(request, guided, with_style, &mut todo)?,
        };
        warnings.extend(encoded.warnings.iter().cloned());
        let text = &encoded.text;
        let initial = self.encode_initial(request, (width, height), inpainting_net)?;
        todo.next("unet")?;
        let unet = self.load_unet()?;
        let styles: Vec<Style<'_>> = encoded
            .style
            .iter()
            .map(|(adapter, tokens)| Style {
                adapter,
                tokens,
                scale: request.style_scale,
                blocks: &request.style_blocks,
            })
            .collect();
        let context = unet.guided(unet.context(text, &styles)?, request.guidance)?;
        let guidance = if guided {
            let window = Window { start: request.guidance_start, end: request.guidance_end };
            Some(Guidance { scale: request.guidance, window, without: context.conditional()? })
        } else {
            None
        };
        drop(styles);
        let text = text.clone();
        self.encoded = self.keep_encoded.then_some(encoded);
        let control = match &request.structure {
            Some(structure) if with_control => {
                todo.next("controlnet")?;
                Some(self.prepare_control(request, structure, &text, (width, height))?)
            }
            _ => None,
        };
        let latents = request.latents.as_ref().map(|latents| latents.to_dtype(DType::F32)).transpose()?;
        Ok(Prepared {
            warnings,
            width,
            height,
            sampler: request.sampler,
            schedule,
            denoiser: Denoiser::new(&scheduler),
            guidance,
            fast: request.fast,
            context,
            control,
            initial,
            latents,
        })
    }

    fn encode(&self, request: &Request, guided: bool, with_style: bool, todo: &mut Todo<'_, '_>) -> Result<Encoded> {
        let mut warnings = Vec::new();
        todo.next("text encoder")?;
        let text = self.encode_text(request, guided, &mut warnings)?;
        let pictures = if with_style { request.style.clone() } else { Vec::new() };
        let style = if with_style {
            todo.next("image encoder")?;
            Some(self.encode_style(&pictures, guided)?)
        } else {
            None
        };
        let words = (request.prompt.clone(), request.negative.clone());
        Ok(Encoded { words, clip_skip: request.clip_skip, guided, pictures, text, style, warnings })
    }

    fn check_latents(&self, request: &Request, width: u32, height: u32) -> Result<()> {
        let Some(latents) = &request.latents else { return Ok(()) };
        let side = |side: u32| side as usize / self.vae_config.downscale();
        let expected = [self.vae_config.latent_channels, side(height), side(width)];
        if latents.rank() != 4 || latents.dims()[1..] != expected || latents.dim(0)? == 0 {
            let reason = format!("has shape {:?}, a {width}x{height} picture needs [n, {expected:?}]", latents.dims());
            return Err(Error::usage("--latents", reason.replace("[n, [", "[n, ").replace("]]", "]")));
        }
        Ok(())
    }

    /// Prompt embeddings `[2, n, width]` under guidance (negative first), else `[1, n, width]`.
    fn encode_text(&self, request: &Request, guided: bool, warnings: &mut Vec<String>) -> Result<Tensor> {
        let (config, checkpoint) = self.part(Part::TextEncoder)?;
        let path = checkpoint.path().to_path_buf();
        let config: ClipTextConfig = parse(config, &path)?;
        let encoder = ClipText::new(&config, checkpoint.var_builder(DType::F32, &self.device))
            .map_err(|error| named(error, &path))?;
        let mut embed = |name: &str, prompt: &str, clip_skip: Option<usize>| {
            let tokens = self.tokenizer.encode(prompt)?;
            if let Some(cut) = tokens.cut {
                let most = self.tokenizer.max_length();
                warnings.push(format!("the {name} is longer than {most} tokens; this part was cut: {cut}"));
            }
            let count = tokens.ids.len();
            encoder.forward(&Tensor::from_vec(tokens.ids, (1, count), &self.device)?, clip_skip)
        };
        let prompt = embed("prompt", &request.prompt, request.clip_skip)?;
        if !guided {
            return Ok(prompt);
        }
        // The reference skips layers for the prompt only.
        let negative = embed("negative prompt", &request.negative, None)?;
        Ok(Tensor::cat(&[negative, prompt], 0)?)
    }

    /// The adapter and its tokens `[2 or 1, n, width]`, the unconditional row first under guidance.
    fn encode_style(&self, pictures: &[RgbImage], guided: bool) -> Result<(IpAdapter, Tensor)> {
        let Some(path) = &self.paths.ip_adapter else {
            return Err(Error::usage("--style", "needs an IP-Adapter to bring the style image in")
                .with_hint("name one with --ip-adapter"));
        };
        let checkpoint = Checkpoint::open(path)?;
        let tensors: Vec<_> = checkpoint
            .names()
            .map(|name| (name.to_string(), checkpoint.shape(name).unwrap_or_default().to_vec()))
            .collect();
        let adapter = IpAdapter::new(&tensors, checkpoint.var_builder(self.dtype(), &self.device))
            .map_err(|error| named(error, path))?;
        let Some(encoder_path) = &self.paths.image_encoder else {
            let error = Error::usage("--style", "needs the image encoder the IP-Adapter was trained with");
            return Err(error.with_hint("name its folder with --image-encoder"));
        };
        let (config, checkpoint) = model::open_net(encoder_path, Part::ImageEncoder)?;
        let config: ClipVisionConfig = parse(config, encoder_path)?;
        let size = config.image_size;
        let encoder = ClipVision::new(&config, self.builder(checkpoint, self.dtype()))
            .map_err(|error| named(error, encoder_path))?;
        let encode = |pixels: &Tensor| {
            let pixels = pixels.to_device(&self.device)?.to_dtype(self.dtype())?;
            match adapter.needs() {
                EncoderOutput::ImageEmbeds => encoder.image_embeds(&pixels),
                EncoderOutput::Penultimate => encoder.penultimate(&pixels),
            }
        };
        let features =
            pictures.iter().map(|picture| encode(&clip::preprocess(picture, size)?)).collect::<Result<Vec<_>>>()?;
        let nothing = match adapter.needs() {
            EncoderOutput::ImageEmbeds => features[0].zeros_like()?,
            // Zeros after normalisation: the encoder's answer to a picture of the mean colour.
            EncoderOutput::Penultimate => encode(&Tensor::zeros((1, 3, size, size), DType::F32, &Device::Cpu)?)?,
        };
        let tokens = adapter.tokens(&features, &nothing).map_err(|error| named(error, encoder_path))?;
        let tokens = if guided { tokens } else { tokens.narrow(0, 1, 1)? };
        Ok((adapter, tokens))
    }

    /// Latents of the picture to start from and what inpainting needs.
    fn encode_initial(&mut self, request: &Request, size: (u32, u32), inpainting_net: bool) -> Result<Option<Initial>> {
        let Some(init) = &request.init else { return Ok(None) };
        let (width, height) = size;
        let picture = resize::lanczos(init, width, height)?;
        let pixels = tensor::to_signed(&picture)?;
        let latents = self.encode_pixels(&pixels)?;
        let inpaint = match &request.mask {
            None => None,
            Some(mask) => {
                let mask = resize::lanczos_grey(mask, width, height)?;
                let repaint = tensor::mask(&mask)?;
                // Nearest: every eighth pixel.
                let step = self.vae_config.downscale();
                let pick = |axis: usize, xs: &Tensor| -> Result<Tensor> {
                    let count = xs.dim(axis)? / step;
                    let at = Tensor::from_iter((0..count).map(|index| (index * step) as u32), xs.device())?;
                    Ok(xs.index_select(&at, axis)?)
                };
                let latent_mask = pick(3, &pick(2, &repaint)?)?.to_device(&self.device)?;
                let conditioning = if inpainting_net {
                    let masked = pixels.broadcast_mul(&(1.0 - &repaint)?)?;
                    let masked = self.encode_pixels(&masked)?;
                    Some(Tensor::cat(&[latent_mask.clone(), masked], 1)?)
                } else {
                    None
                };
                Some(Inpaint { mask, latent_mask, conditioning, whole: request.strength >= 1.0 })
            }
        };
        if !self.keep_loaded {
            self.vae = None;
        }
        Ok(Some(Initial { picture, latents, inpaint }))
    }

    fn encode_pixels(&mut self, pixels: &Tensor) -> Result<Tensor> {
        let (scale, device) = (self.vae_config.scaling_factor, self.device.clone());
        let pixels = pixels.to_device(&device)?;
        let (_, _, height, width) = pixels.dims4()?;
        let vae = self.load_vae()?;
        let posterior = if height * width > MAX_WHOLE {
            vae.encode_tiled(&pixels, &mut |_, _| Ok(()))?
        } else {
            vae.encode(&pixels)?
        };
        // The reference samples the posterior here; its mode is the same picture without grain.
        Ok((posterior.mode() * scale)?)
    }

    fn prepare_control(
        &mut self,
        request: &Request,
        structure: &RgbImage,
        text: &Tensor,
        (width, height): (u32, u32),
    ) -> Result<Control> {
        // The map is made at the structure image's own size and resized, as the reference's users do.
        let map = resize::lanczos(&request.control.apply(structure)?, width, height)?;
        let pixels = tensor::to_unit(&map)?.to_device(&self.device)?;
        let net = self.load_controlnet()?;
        let context = net.context(text)?;
        Ok(Control {
            hint: net.hint(&pixels)?,
            without_guidance: if context.batch() == 2 { context.conditional()? } else { context.clone() },
            context,
            scale: request.control_scale,
            window: Window { start: request.control_start, end: request.control_end },
            map,
        })
    }

    pub(super) fn load_unet(&mut self) -> Result<&Unet> {
        if self.unet.is_none() {
            let (_, checkpoint) = self.part(Part::Unet)?;
            let path = checkpoint.path().to_path_buf();
            let mut unet = Unet::new(&self.unet_config, self.builder(checkpoint, self.dtype()))
                .map_err(|error| named(error, &path))?;
            if self.precision == Precision::Int8 {
                unet.quantize()?;
            }
            self.unet = Some(unet);
        }
        self.unet.as_ref().ok_or_else(|| Error::usage("unet", "is not loaded"))
    }

    fn load_controlnet(&mut self) -> Result<&ControlNet> {
        if self.controlnet.is_none() {
            let Some(path) = &self.paths.controlnet else {
                return Err(Error::usage("--structure", "needs a ControlNet to follow the structure image")
                    .with_hint("name one with --controlnet"));
            };
            let (config, checkpoint) = model::open_net(path, Part::ControlNet)?;
            let mut net = ControlNetConfig::from_json(&config)
                .and_then(|config| ControlNet::new(&config, self.builder(checkpoint, self.dtype())))
                .map_err(|error| named(error, path))?;
            if self.precision == Precision::Int8 {
                net.quantize()?;
            }
            self.controlnet = Some(net);
        }
        self.controlnet.as_ref().ok_or_else(|| Error::usage("controlnet", "is not loaded"))
    }

    pub(super) fn load_vae(&mut self) -> Result<&Vae> {
        if self.vae.is_none() {
            let (_, checkpoint) = self.model.part(Part::Vae)?;
            let path = checkpoint.path().to_path_buf();
            let vae = Vae::new(&self.vae_config, self.builder(checkpoint, DType::F32))
                .map_err(|error| named(error, &path))?;
            self.vae = Some(vae);
        }
        self.vae.as_ref().ok_or_else(|| Error::usage("vae", "is not loaded"))
    }

    /// A part's configuration and its weights, as the LoRAs change them.
    fn part(&self, part: Part) -> Result<(Value, Checkpoint)> {
        let (config, weights) = self.model.part(part)?;
        let weights =
            self.loras.iter().try_fold(weights, |weights, (lora, scale)| lora.apply(part, weights, *scale))?;
        Ok((config, weights))
    }

    fn builder(&self, checkpoint: Checkpoint, dtype: DType) -> VarBuilder<'static> {
        checkpoint.lean_var_builder(dtype, &self.device)
    }

    pub(super) fn nets(&mut self) -> Result<(&Unet, Option<&ControlNet>)> {
        self.load_unet()?;
        match &self.unet {
            Some(unet) => Ok((unet, self.controlnet.as_ref())),
            None => Err(Error::usage("unet", "is not loaded")),
        }
    }

    pub(super) fn make_room_for_vae(&mut self) {
        if !self.keep_loaded {
            self.unet = None;
            self.controlnet = None;
        }
    }

    pub(super) fn model_path(&self) -> &Path {
        &self.paths.model
    }

    pub(super) fn vae_config(&self) -> &VaeConfig {
        &self.vae_config
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn dtype(&self) -> DType {
        self.precision.dtype()
    }
}

impl Encoded {
    fn is_of(&self, request: &Request, guided: bool, with_style: bool) -> bool {
        let pictures = if with_style { request.style.as_slice() } else { &[] };
        self.words.0 == request.prompt
            && self.words.1 == request.negative
            && self.clip_skip == request.clip_skip
            && self.guided == guided
            && self.pictures == pictures
    }
}

/// Counts what is encoded and loaded for the progress bar.
struct Todo<'a, 'b> {
    done: u64,
    total: u64,
    on_progress: &'a mut OnProgress<'b>,
}

impl Todo<'_, '_> {
    fn next(&mut self, label: &str) -> Result<()> {
        let progress = Progress { stage: Stage::Encode, done: self.done, total: self.total, label: label.into() };
        self.done += 1;
        (self.on_progress)(&progress)
    }
}

pub(super) fn parse<T: DeserializeOwned>(config: Value, path: &Path) -> Result<T> {
    serde_json::from_value(config)
        .map_err(|error| Error::file(path, format!("its configuration cannot be used: {error}")))
}

/// Puts the file's name before an error about what is in it.
pub(super) fn named(error: Error, path: &Path) -> Error {
    match error {
        Error::Usage { subject, reason, hint } => {
            Error::File { path: path.to_path_buf(), reason: format!("{subject}: {reason}"), hint }
        }
        Error::Tensor(error) => {
            let text = error.to_string();
            let shown = path.display().to_string();
            // Loading errors already name the file.
            let reason = text.strip_prefix(&format!("{shown}: ")).unwrap_or(&text).to_string();
            Error::file(path, reason)
        }
        other => other,
    }
}
