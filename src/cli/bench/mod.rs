//! `impasto bench`: how long each net takes on this machine, with random inputs of a picture's size.

mod kernels;
mod work;

use super::{Printer, interrupt, machine, nets};
use candle_core::{DType, Device, Tensor};
use impasto::device::{Backend, Precision};
use impasto::nets::clip::text::{ClipText, ClipTextConfig};
use impasto::nets::clip::vision::{ClipVision, ClipVisionConfig};
use impasto::nets::controlnet::{ControlNet, ControlNetConfig};
use impasto::nets::unet::{Unet, UnetConfig};
use impasto::nets::vae::{Vae, VaeConfig};
use impasto::pipeline::diffusion::{Diffusion, ModelPaths};
use impasto::pipeline::request::Request;
use impasto::rng::TorchRng;
use impasto::weights::model::{self, Model, Part};
use impasto::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Instant;

/// What can be timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    /// One evaluation of the UNet
    Unet,
    /// One evaluation of the ControlNet (needs --controlnet)
    Controlnet,
    /// Latents to pixels
    VaeDecode,
    /// Pixels to latents
    VaeEncode,
    /// Prompts to embeddings
    ClipText,
    /// Pictures to embeddings (needs --image-encoder)
    ClipVision,
    /// A whole picture from a prompt, loading included
    Picture,
    /// Single layers of a Stable Diffusion 1.5, a row for each (needs no model)
    Kernels,
}

/// Arguments of `impasto bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint: a name (see `impasto weights list`), a diffusers folder, a .safetensors or .ckpt file
    #[arg(long, short, value_name = "NAME|DIR|FILE", required_unless_present = "stages")]
    model: Option<PathBuf>,
    /// The ControlNet
    #[arg(long, value_name = "NAME|DIR|FILE")]
    controlnet: Option<PathBuf>,
    /// The vision encoder
    #[arg(long, value_name = "NAME|DIR|FILE")]
    image_encoder: Option<PathBuf>,
    /// What to time [default: everything there are nets for, but no whole picture]
    #[arg(long, value_enum, value_name = "STAGE,...", value_delimiter = ',')]
    stages: Vec<Stage>,
    /// Pictures at once; 2 is one picture under guidance
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: u16,
    /// Picture height, a multiple of 8
    #[arg(long, value_name = "N", default_value_t = 512)]
    height: u32,
    /// Picture width, a multiple of 8
    #[arg(long, value_name = "N", default_value_t = 512)]
    width: u32,
    /// Steps of a whole picture
    #[arg(long, value_name = "N", default_value_t = 20)]
    steps: usize,
    /// How often to time each stage
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Where to compute: auto, cpu, cuda, cuda:N, metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Backend,
    /// The type UNet and ControlNet compute in [default: f32 on the CPU, f16 on a GPU]
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<Precision>,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The times of one stage.
#[derive(Serialize)]
struct Timing {
    /// The stage's name; a kernel's with its shape.
    stage: String,
    /// Every repeat, the first one with cold caches.
    seconds: Vec<f64>,
    median: f64,
    /// Billions of operations of one repeat, two per multiply-add; none for a whole picture.
    gflop: Option<f64>,
    /// Billions of operations per second, at the median.
    gflops: Option<f64>,
    /// The most memory the process had at once during this stage, where the system lets it be told apart.
    peak_memory_bytes: Option<u64>,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    device: String,
    dtype: Precision,
    threads: usize,
    batch: u16,
    height: u32,
    width: u32,
    stages: Vec<Timing>,
    peak_memory_bytes: Option<u64>,
}

/// One run: where, in which type, how large.
struct Bench<'a> {
    args: &'a Args,
    paths: ModelPaths,
    device: Device,
    precision: Precision,
    dtype: DType,
    rng: TorchRng,
}

/// Times the stages.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    Request { steps: args.steps, width: Some(args.width), height: Some(args.height), ..Request::default() }
        .validate()?;
    let locate = |flag: &str, net: &PathBuf| nets::locate(flag, net, printer);
    let paths = ModelPaths {
        model: match &args.model {
            Some(model) => locate("--model", model)?,
            None if args.stages.iter().all(|stage| *stage == Stage::Kernels) => PathBuf::new(),
            None => return Err(needs("what is timed", "--model").into()),
        },
        controlnet: args.controlnet.as_ref().map(|net| locate("--controlnet", net)).transpose()?,
        image_encoder: args.image_encoder.as_ref().map(|net| locate("--image-encoder", net)).transpose()?,
        ..ModelPaths::default()
    };
    super::set_threads(args.threads)?;
    let (device, _) = args.device.open()?;
    let precision = args.dtype.unwrap_or_else(|| Precision::for_device(&device));
    let name = format!("{:?}", device.location()).to_lowercase();
    let mut bench = Bench { args, paths, device, precision, dtype: precision.dtype(), rng: TorchRng::new(0) };
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        device: name,
        dtype: precision,
        threads: rayon::current_num_threads(),
        batch: args.batch,
        height: args.height,
        width: args.width,
        stages: Vec::new(),
        peak_memory_bytes: None,
    };
    for stage in args.stages() {
        printer.note(format_args!("timing {}", Args::name(stage)));
        let timings = if stage == Stage::Kernels { bench.kernels()? } else { vec![bench.stage(stage)?] };
        for timing in timings {
            report.peak_memory_bytes = report.peak_memory_bytes.max(timing.peak_memory_bytes);
            report.stages.push(timing);
        }
    }
    if args.json { printer.json(&report) } else { print(&report, printer) }
}

impl Args {
    fn stages(&self) -> Vec<Stage> {
        if !self.stages.is_empty() {
            return self.stages.clone();
        }
        let mut stages = vec![Stage::ClipText, Stage::Unet, Stage::VaeEncode, Stage::VaeDecode];
        stages.extend(self.controlnet.is_some().then_some(Stage::Controlnet));
        stages.extend(self.image_encoder.is_some().then_some(Stage::ClipVision));
        stages
    }

    fn name(stage: Stage) -> String {
        clap::ValueEnum::to_possible_value(&stage).map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Timing {
    /// Of what was timed, and its multiply-adds where they are what takes the time.
    fn new(stage: String, seconds: Vec<f64>, work: Option<u64>) -> Self {
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        let gflop = work.map(|multiply_adds| 2.0 * multiply_adds as f64 / 1e9);
        let gflops = gflop.map(|gflop| gflop / median.max(1e-9));
        Self { stage, seconds, median, gflop, gflops, peak_memory_bytes: None }
    }
}

impl Bench<'_> {
    fn stage(&mut self, stage: Stage) -> Result<Timing> {
        machine::forget_peak_memory();
        let (seconds, work) = match stage {
            Stage::Unet => self.unet()?,
            Stage::Controlnet => self.controlnet()?,
            Stage::VaeDecode | Stage::VaeEncode => self.vae(stage == Stage::VaeDecode)?,
            Stage::ClipText => self.clip_text()?,
            Stage::ClipVision => self.clip_vision()?,
            Stage::Picture => (self.picture()?, None),
            Stage::Kernels => return Err(Error::usage("--stages", "kernels are many")),
        };
        Ok(Timing { peak_memory_bytes: machine::peak_memory(), ..Timing::new(Args::name(stage), seconds, work) })
    }

    fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
        let mut seconds = Vec::new();
        for _ in 0..self.args.repeat {
            interrupt::check()?;
            let started = Instant::now();
            work()?;
            self.device.synchronize()?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }

    /// Latent height and width.
    fn latent(&self) -> (u64, u64) {
        (u64::from(self.args.height / 8), u64::from(self.args.width / 8))
    }

    fn random(&mut self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Ok(self.rng.normal(shape)?.to_device(&self.device)?.to_dtype(dtype)?)
    }

    fn latents(&mut self, channels: usize, dtype: DType) -> Result<Tensor> {
        let (height, width) = self.latent();
        self.random(&[usize::from(self.args.batch), channels, height as usize, width as usize], dtype)
    }

    fn unet(&mut self) -> Result<(Vec<f64>, Option<u64>)> {
        let (json, checkpoint) = Model::open(&self.paths.model)?.part(Part::Unet)?;
        let config = UnetConfig::from_json(&json)?;
        let mut net = Unet::new(&config, checkpoint.lean_var_builder(self.dtype, &self.device))?;
        if self.precision == Precision::Int8 {
            net.quantize()?;
        }
        let batch = usize::from(self.args.batch);
        let text = self.random(&[batch, 77, config.cross_attention_dim()], self.dtype)?;
        let context = net.guided(net.context(&text, &[])?, 7.5)?;
        let xs = self.latents(config.in_channels(), DType::F32)?;
        let seconds = self.time(|| net.forward(&xs, 500.0, &context, None).map(drop))?;
        Ok((seconds, Some(work::unet(&json, batch as u64, self.latent()))))
    }

    fn controlnet(&mut self) -> Result<(Vec<f64>, Option<u64>)> {
        let path = self.paths.controlnet.as_ref().ok_or_else(|| needs("controlnet", "--controlnet"))?;
        let (json, checkpoint) = model::open_net(path, Part::ControlNet)?;
        let config = ControlNetConfig::from_json(&json)?;
        let mut net = ControlNet::new(&config, checkpoint.lean_var_builder(self.dtype, &self.device))?;
        if self.precision == Precision::Int8 {
            net.quantize()?;
        }
        let batch = usize::from(self.args.batch);
        let text = self.random(&[batch, 77, config.cross_attention_dim()], self.dtype)?;
        let context = net.context(&text)?;
        let hint = net.hint(&self.random(&[1, 3, self.args.height as usize, self.args.width as usize], self.dtype)?)?;
        let xs = self.latents(4, DType::F32)?;
        let seconds = self.time(|| net.forward(&xs, 500.0, &context, &hint, 1.0).map(drop))?;
        Ok((seconds, Some(work::controlnet(&json, batch as u64, self.latent()))))
    }

    fn vae(&mut self, decode: bool) -> Result<(Vec<f64>, Option<u64>)> {
        let (json, checkpoint) = Model::open(&self.paths.model)?.part(Part::Vae)?;
        let config: VaeConfig = config(&json, checkpoint.path())?;
        let net = Vae::new(&config, checkpoint.lean_var_builder(DType::F32, &self.device))?;
        let batch = u64::from(self.args.batch);
        if decode {
            let xs = self.latents(config.latent_channels, DType::F32)?;
            let seconds = self.time(|| net.decode(&xs).map(drop))?;
            return Ok((seconds, Some(work::vae_decode(&json, batch, self.latent()))));
        }
        let shape = [batch as usize, 3, self.args.height as usize, self.args.width as usize];
        let xs = self.random(&shape, DType::F32)?.clamp(-1f64, 1f64)?;
        let seconds = self.time(|| net.encode(&xs).map(drop))?;
        Ok((seconds, Some(work::vae_encode(&json, batch, self.latent()))))
    }

    fn clip_text(&mut self) -> Result<(Vec<f64>, Option<u64>)> {
        let (json, checkpoint) = Model::open(&self.paths.model)?.part(Part::TextEncoder)?;
        let config: ClipTextConfig = config(&json, checkpoint.path())?;
        let net = ClipText::new(&config, checkpoint.var_builder(DType::F32, &self.device))?;
        let batch = usize::from(self.args.batch);
        let (length, entries) = (config.max_position_embeddings, config.vocab_size);
        let ids: Vec<u32> = (0..batch * length).map(|index| (index * 7919 % entries) as u32).collect();
        let ids = Tensor::from_vec(ids, (batch, length), &self.device)?;
        let seconds = self.time(|| net.forward(&ids, None).map(drop))?;
        Ok((seconds, Some(work::clip_text(&json, batch as u64))))
    }

    fn clip_vision(&mut self) -> Result<(Vec<f64>, Option<u64>)> {
        let path = self.paths.image_encoder.as_ref().ok_or_else(|| needs("clip-vision", "--image-encoder"))?;
        let (json, checkpoint) = model::open_net(path, Part::ImageEncoder)?;
        let config: ClipVisionConfig = config(&json, checkpoint.path())?;
        let net = ClipVision::new(&config, checkpoint.lean_var_builder(DType::F32, &self.device))?;
        let batch = usize::from(self.args.batch);
        let pixels = self.random(&[batch, config.num_channels, config.image_size, config.image_size], DType::F32)?;
        let seconds = self.time(|| net.image_embeds(&pixels).map(drop))?;
        Ok((seconds, Some(work::clip_vision(&json, batch as u64))))
    }

    fn picture(&mut self) -> Result<Vec<f64>> {
        let args = self.args;
        let request = Request {
            prompt: "a lighthouse on a cliff, oil painting".to_owned(),
            steps: args.steps,
            width: Some(args.width),
            height: Some(args.height),
            ..Request::default()
        };
        let paths = ModelPaths { model: self.paths.model.clone(), ..ModelPaths::default() };
        let mut on_progress = |_: &impasto::progress::Progress| interrupt::check();
        self.time(|| {
            let mut diffusion = Diffusion::open(&paths, &self.device, self.precision)?;
            diffusion.keep_loaded(false);
            let prepared = diffusion.prepare(&request, &mut on_progress)?;
            diffusion.paint(&prepared, 0, 0, &mut on_progress).map(drop)
        })
    }
}

fn config<C: serde::de::DeserializeOwned>(json: &Value, path: &std::path::Path) -> Result<C> {
    serde_json::from_value(json.clone()).map_err(|error| Error::file(path, format!("its config: {error}")))
}

fn needs(stage: &str, flag: &str) -> Error {
    Error::usage("--stages", format!("{stage} needs {flag}"))
}

fn print(report: &Report, printer: &Printer) -> anyhow::Result<()> {
    let Report { device, dtype, threads, batch, height, width, .. } = report;
    let dtype = format!("{dtype:?}").to_lowercase();
    printer.line(format_args!("{device} {dtype}, {threads} threads, batch {batch}, {width}x{height}"))?;
    let wide = report.stages.iter().map(|timing| timing.stage.len()).max().unwrap_or(0).max(12);
    printer.line(format_args!(
        "{:wide$} {:>10} {:>10} {:>10} {:>12}",
        "stage", "median s", "GFLOP", "GFLOP/s", "peak memory"
    ))?;
    for timing in &report.stages {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let peak = timing.peak_memory_bytes.map_or_else(|| "-".to_owned(), machine::human);
        printer.line(format_args!(
            "{:wide$} {:>10} {:>10} {:>10} {peak:>12}",
            timing.stage,
            if timing.median < 0.1 { format!("{:.5}", timing.median) } else { format!("{:.3}", timing.median) },
            number(timing.gflop),
            number(timing.gflops),
        ))?;
    }
    Ok(())
}
