//! `impasto generate`: prompt, style picture and structure picture to a new picture.
//!
//! Everything that can be wrong is found before anything large is loaded: flags, then pictures, then nets.

mod output;
pub(super) mod plan;

use super::{Printer, interrupt, writable};
use impasto::device::{Backend, Precision};
use impasto::image;
use impasto::pipeline::recipe::Recipe;
use impasto::pipeline::settings::Settings;
use impasto::pipeline::{Diffusion, open_depth};
use plan::Plan;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `impasto generate`.
#[derive(Debug, Default, clap::Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct Args {
    /// What to paint
    #[arg(long, short, value_name = "TEXT", help_heading = "Prompt")]
    pub(super) prompt: Option<String>,
    #[command(flatten)]
    pub(super) settings: Settings,

    /// A preset's name, or a .toml file: which nets, which defaults (see `impasto presets list`)
    #[arg(long, value_name = "NAME|FILE", help_heading = "Model")]
    pub(super) preset: Option<PathBuf>,
    /// The checkpoint: a name (see `impasto weights list`), a diffusers folder, a .safetensors or .ckpt file, or a preset
    #[arg(long, short, value_name = "NAME|DIR|FILE", help_heading = "Model")]
    pub(super) model: Option<PathBuf>,

    /// A style picture; give the flag again for more of them
    #[arg(long, value_name = "IMAGE", help_heading = "Style")]
    pub(super) style: Vec<PathBuf>,
    /// The IP-Adapter that style pictures go through [default: the preset's]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Style")]
    pub(super) ip_adapter: Option<PathBuf>,
    /// The vision encoder of the IP-Adapter [default: the preset's, else the `image_encoder` folder beside the adapter]
    #[arg(long, value_name = "NAME|DIR|FILE", help_heading = "Style")]
    pub(super) image_encoder: Option<PathBuf>,

    /// The picture that gives the structure
    #[arg(long, value_name = "IMAGE", help_heading = "Structure")]
    pub(super) structure: Option<PathBuf>,
    /// The ControlNet [default: the preset's for the kind of control]
    #[arg(long, value_name = "NAME|DIR|FILE", help_heading = "Structure")]
    pub(super) controlnet: Option<PathBuf>,
    /// The depth estimator of `--control depth` [default: the preset's]
    #[arg(long, value_name = "NAME|DIR|FILE", help_heading = "Structure")]
    pub(super) depth_model: Option<PathBuf>,

    /// The picture to repaint (image to image)
    #[arg(long, value_name = "IMAGE", help_heading = "Repainting")]
    pub(super) init: Option<PathBuf>,
    /// Where to repaint the init picture: white is painted anew, black is kept (inpainting)
    #[arg(long, value_name = "IMAGE", help_heading = "Repainting")]
    pub(super) mask: Option<PathBuf>,

    /// The seed of the noise, the same as torch's on the CPU [default: a new one, told at the end]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(super) seed: Option<u64>,
    /// Paint N pictures with seed, seed+1, ...; they are named OUT-SEED.png
    #[arg(long, value_name = "N", help_heading = "Sampling", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) count: Option<u32>,
    /// Noise to start from instead of the seed's: tensor `latents` [n, 4, height/8, width/8]
    #[arg(long, value_name = "FILE", help_heading = "Sampling")]
    pub(super) latents: Option<PathBuf>,

    /// Repeat the recipe in a PNG; flags given beside it override its parts
    #[arg(long, value_name = "PNG", help_heading = "Output")]
    pub(super) from: Option<PathBuf>,
    /// The picture to write, a .png
    #[arg(long, short, value_name = "PNG", help_heading = "Output")]
    pub(super) output: PathBuf,
    /// Also write the control map, a .png
    #[arg(long, value_name = "PNG", help_heading = "Output")]
    pub(super) control_map: Option<PathBuf>,
    /// Print one line of JSON per picture
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,

    /// Where to compute: auto, cpu, cuda, cuda:N, metal
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Device")]
    pub(super) device: Backend,
    /// The type the UNet computes in [default: f32 on the CPU, f16 on a GPU]
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Device")]
    pub(super) dtype: Option<Precision>,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", help_heading = "Device", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
}

/// One finished picture, as `--json` prints it.
#[derive(Serialize)]
struct Painted<'a> {
    path: String,
    seed: u64,
    seconds: f64,
    width: u32,
    height: u32,
    warnings: &'a [String],
    recipe: &'a Recipe,
}

/// Paints.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let printer = &printer.quieter(args.json);
    let mut plan = Plan::new(args)?;
    output::check(&args.output, &plan)?;
    args.control_map.as_ref().map_or(Ok(()), |map| writable::check("--control-map", map, &writable::PNG))?;
    let mut request = plan.request()?;
    for warning in std::mem::take(&mut plan.warnings) {
        printer.warn(warning);
    }
    super::set_threads(args.threads)?;
    let (device, _) = args.device.open()?;
    let dtype = plan.dtype.unwrap_or_else(|| Precision::for_device(&device));
    let paths = plan.paths(printer)?;
    if let Some(net) = plan.depth_model(printer)? {
        request.control = open_depth(&net, &device)?;
    }
    let mut diffusion = Diffusion::open(&paths, &device, dtype.dtype())?;
    diffusion.keep_loaded(plan.count > 1);
    let mut bar = printer.bar();
    let prepared = diffusion.prepare(&request, &mut |progress| bar.report(progress))?;
    bar.clear();
    // What went in is prepared now; the memory is the UNet's.
    drop(request);
    for warning in &prepared.warnings {
        printer.warn(warning);
    }
    if let (Some(path), Some(map)) = (&args.control_map, prepared.control_map()) {
        image::write::png(path, map, &[])?;
    }
    for (index, seed) in plan.seeds().enumerate() {
        interrupt::check()?;
        let started = Instant::now();
        let row = plan.row + index;
        let picture = diffusion.paint(&prepared, seed, row, &mut |progress| bar.report(progress))?;
        bar.clear();
        let recipe = plan.recipe(seed, row, dtype, picture.dimensions());
        let path = output::name(&args.output, seed, plan.count);
        image::write::png(&path, &picture, &recipe.texts()?)?;
        let seconds = started.elapsed().as_secs_f64();
        if args.json {
            let (width, height) = picture.dimensions();
            let path = path.to_string_lossy().into_owned();
            let warnings = &prepared.warnings;
            printer.json(&Painted { path, seed, seconds, width, height, warnings, recipe: &recipe })?;
        } else {
            printer.line(path.display())?;
            printer.note(format_args!("seed {seed}, {seconds:.1} s"));
        }
    }
    Ok(())
}
