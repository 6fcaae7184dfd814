//! Your own sampler: the nets, the schedule and the denoiser are there to be used without the pipeline.
//!
//! Euler's method written out, with guidance that fades towards the end.
//!
//! ```sh
//! cargo run --release --example sampler_loop -- weights/mini "a lighthouse" out.png
//! ```

use candle_core::{DType, Device, Tensor};
use impasto::diffusion::denoiser::Denoiser;
use impasto::diffusion::guidance::guide;
use impasto::diffusion::sampler::Sampler;
use impasto::diffusion::schedule::{Schedule, SchedulerConfig, Sigmas};
use impasto::image::{tensor, write};
use impasto::nets::clip::text::{ClipText, ClipTextConfig};
use impasto::nets::clip::tokenizer::Tokenizer;
use impasto::nets::unet::{Unet, UnetConfig};
use impasto::nets::vae::{Vae, VaeConfig};
use impasto::rng::TorchRng;
use impasto::weights::{Model, Part};
use impasto::{Error, Result};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt, output] = args.as_slice() else {
        return Err(Error::usage("arguments", "expected MODEL PROMPT OUT.png"));
    };
    let (cpu, model) = (Device::Cpu, Model::open(model)?);

    let (json, weights) = model.part(Part::TextEncoder)?;
    let text_config: ClipTextConfig = parse(json)?;
    let encoder = ClipText::new(&text_config, weights.var_builder(DType::F32, &cpu))?;
    let tokenizer = Tokenizer::from_folder(model.path().join("tokenizer")).or_else(|_| Tokenizer::clip())?;
    let (nothing, prompt) = (tokenizer.encode("")?.ids, tokenizer.encode(prompt)?.ids);
    let text = encoder.forward(&Tensor::new(vec![nothing, prompt], &cpu)?, None)?;

    let (json, weights) = model.part(Part::Unet)?;
    // The size it was trained on, in latents.
    let side = json["sample_size"].as_u64().unwrap_or(64) as usize;
    let unet = Unet::new(&UnetConfig::from_json(&json)?, weights.var_builder(DType::F32, &cpu))?;
    let context = unet.context(&text, &[])?;

    let scheduler = SchedulerConfig::from_json(&model.scheduler()?)?;
    let schedule = Schedule::new(Sampler::Euler, &scheduler, 20, Sigmas::Karras)?;
    let denoiser = Denoiser::new(&scheduler);
    let mut xs = schedule.start(&TorchRng::new(42).normal(&[1, 4, side, side])?)?;
    for at in schedule.evaluations() {
        let scale = 7.5 - 4.0 * at.index as f64 / at.total as f64;
        let clean = denoiser.denoise(&xs, at, |xs, timestep| {
            let out = unet.forward(&Tensor::cat(&[xs, xs], 0)?, timestep, &context, None)?;
            guide(&out.narrow(0, 0, 1)?, &out.narrow(0, 1, 1)?, scale)
        })?;
        // Euler: a straight line from here towards the clean picture, as far as the next noise level.
        let slope = ((&xs - clean)? / at.sigma)?;
        xs = (xs + (slope * (schedule.sigmas[at.index + 1] - at.sigma))?)?;
    }

    let (json, weights) = model.part(Part::Vae)?;
    let vae_config: VaeConfig = parse(json)?;
    let vae = Vae::new(&vae_config, weights.var_builder(DType::F32, &cpu))?;
    let pictures = tensor::to_pictures(&vae.decode(&(xs / vae_config.scaling_factor)?)?)?;
    write::png(output, &pictures[0], &[])
}

fn parse<C: serde::de::DeserializeOwned>(json: serde_json::Value) -> Result<C> {
    serde_json::from_value(json).map_err(|error| Error::usage("config.json", error.to_string()))
}
