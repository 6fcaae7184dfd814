//! `impasto generate`: prompt, style picture and structure picture to a new picture.
//!
//! Everything that can be wrong is found before anything large is loaded: flags, then pictures, then nets.

mod output;
pub(super) mod plan;

use super::loaded::Loaded;
use super::printer::Bar;
use super::{Printer, interrupt, writable};
use impasto::device::{Backend, Precision};
use impasto::image;
use impasto::pipeline::recipe::{Found, Recipe};
use impasto::pipeline::settings::Settings;
use impasto::pipeline::{Diffusion, Prepared, open_depth};
use plan::Plan;
use serde::Serialize;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
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

    /// A LoRA, by name or file, and how strongly it acts, FILE:0.8 (1 if left out); again for more of them [default: the preset's]
    #[arg(long, value_name = "NAME|FILE[:SCALE]", help_heading = "Model")]
    pub(super) lora: Vec<PathBuf>,

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
    let plan = Plan::new(args)?;
    output::check(&args.output, &plan)?;
    args.control_map.as_ref().map_or(Ok(()), |map| writable::check("--control-map", map, &writable::PNG))?;
    super::set_threads(args.threads)?;
    let (seeds, row, count) = (plan.seeds(), plan.row, plan.count);
    let easel = Easel::new(plan, args.device, count > 1, &mut Loaded::default(), printer)?;
    if let (Some(path), Some(map)) = (&args.control_map, easel.prepared.control_map()) {
        image::write::png(path, map, &[])?;
    }
    let mut bar = printer.bar();
    for (index, seed) in seeds.enumerate() {
        interrupt::check()?;
        let started = Instant::now();
        let path = output::name(&args.output, seed, count);
        let (recipe, (width, height)) = easel.paint(seed, row + index, &path, &mut bar)?;
        let seconds = started.elapsed().as_secs_f64();
        if args.json {
            let path = path.to_string_lossy().into_owned();
            let warnings = &easel.warnings;
            printer.json(&Painted { path, seed, seconds, width, height, warnings, recipe: &recipe })?;
        } else {
            printer.line(path.display())?;
            printer.note(format_args!("seed {seed}, {seconds:.1} s"));
        }
    }
    Ok(())
}

/// The checkpoint of a picture and its adapters, as texts that are equal where the nets are. Everything that can be checked
/// without opening a picture or a net is.
pub(super) fn nets(args: &Args) -> impasto::Result<(String, String)> {
    let plan = Plan::new(args)?;
    plan.check_nets()?;
    Ok(plan.nets(args.device))
}

/// Finds the nets of a picture, fetching those that have a name and are not here yet.
pub(super) fn locate(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    Plan::new(args)?.locate(printer)
}

/// Whether the picture in a file is the one that would be painted, by its recipe.
pub(super) fn is_painted(args: &Args, path: &Path) -> bool {
    match (Plan::new(args), Recipe::read(path)) {
        (Ok(plan), Ok(Found::Ours(recipe))) => plan.leads_to(&recipe),
        _ => false,
    }
}

/// A plan with its nets open and everything prepared that does not depend on the seed.
pub(super) struct Easel {
    plan: Plan,
    dtype: Precision,
    diffusion: Rc<RefCell<Diffusion>>,
    prepared: Prepared,
    /// What the user should know about the pictures.
    pub(super) warnings: Vec<String>,
}

impl Easel {
    /// Reads the pictures, opens the nets and prepares, for one picture or for `several`. Warnings are printed.
    pub(super) fn new(
        mut plan: Plan,
        backend: Backend,
        several: bool,
        loaded: &mut Loaded,
        printer: &Printer,
    ) -> anyhow::Result<Self> {
        let mut request = plan.request()?;
        let mut warnings = std::mem::take(&mut plan.warnings);
        for warning in &warnings {
            printer.warn(warning);
        }
        let (device, _) = backend.open()?;
        let dtype = plan.dtype.unwrap_or_else(|| Precision::for_device(&device));
        let paths = plan.paths(printer)?;
        if let Some(net) = plan.depth_model(printer)? {
            request.control = open_depth(&net, &device)?;
        }
        let diffusion = loaded.diffusion(&paths, &device, dtype)?;
        diffusion.borrow_mut().keep_loaded(several);
        let mut bar = printer.bar();
        let prepared = diffusion.borrow_mut().prepare(&request, &mut |progress| bar.report(progress))?;
        bar.clear();
        // What went in is prepared now; the memory is the UNet's.
        drop(request);
        for warning in &prepared.warnings {
            printer.warn(warning);
        }
        warnings.extend(prepared.warnings.iter().cloned());
        Ok(Self { plan, dtype, diffusion, prepared, warnings })
    }

    /// Paints one picture into a file. Gives its recipe, width and height.
    pub(super) fn paint(
        &self,
        seed: u64,
        row: usize,
        path: &Path,
        bar: &mut Bar,
    ) -> impasto::Result<(Recipe, (u32, u32))> {
        let mut diffusion = self.diffusion.borrow_mut();
        let picture = diffusion.paint(&self.prepared, seed, row, &mut |progress| bar.report(progress))?;
        bar.clear();
        let recipe = self.plan.recipe(seed, row, self.dtype, picture.dimensions());
        image::write::png(path, &picture, &recipe.texts()?)?;
        Ok((recipe, picture.dimensions()))
    }
}
