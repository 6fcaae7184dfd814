//! `impasto train`: a thin skin over [`impasto::train`].

mod adain;
mod fast;

use super::{Printer, interrupt, nets, set_threads};
use candle_core::{DType, Device};
use impasto::device::{Backend, Precision};
use impasto::nets::vgg::Backbone;
use impasto::ops::Pooling;
use impasto::progress::Progress;
use impasto::train::adain::{Balance, Panel, Turns};
use impasto::train::adam::Decay;
use impasto::train::dataset::{Crops, Dataset};
use impasto::train::judge::BackboneJudge;
use impasto::train::loss::{Perceptual, StyleLoss, Weights};
use impasto::train::variables::{self, Variables};
use impasto::train::{self, Course, Files, Lesson};
use impasto::weights::Checkpoint;
use impasto::{Error, Result};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Arguments of `impasto train`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Train a net that paints any photo in the style of any painting
    Adain(Box<adain::Args>),
    /// Train a small net for the style of one painting
    Fast(Box<fast::Args>),
}

/// Runs it.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    match &args.command {
        Command::Adain(args) => adain::run(args, printer),
        Command::Fast(args) => fast::run(args, printer),
    }
}

/// What every training can be told.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Training")]
struct Common {
    /// Folder of photos to learn on
    #[arg(long, value_name = "DIR")]
    photos: PathBuf,
    /// Network that judges the pictures: a name of `impasto weights list` or a file; several are possible
    #[arg(long, value_name = "NAME|FILE", required = true)]
    backbone: Vec<PathBuf>,
    /// Which of several networks judge a step
    #[arg(long, value_enum, default_value_t = Turns::Alternate)]
    turns: Turns,
    /// The net to write, a .safetensors; checkpoint, curve and previews go beside it
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Go on with an unfinished training of this name; begin one where there is none
    #[arg(long)]
    resume: bool,
    /// Net to begin with instead of random weights, or the checkpoint of a training, whose running mean is taken; what fits by
    /// name and shape counts
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Updates to make
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    steps: u64,
    /// Pictures per step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,
    /// Side of the crops, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(32..=2048))]
    size: u32,
    /// Photos: the largest part a crop shows, in units of the crop; 2 shows some at half their size
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    photo_zoom: f64,
    /// Step size
    #[arg(long, value_name = "F", default_value_t = 1e-3)]
    lr: f64,
    /// How the step size falls
    #[arg(long, value_enum, default_value_t = Decay::Cosine)]
    decay: Decay,
    /// Steps over which the step size rises at the start
    #[arg(long, value_name = "N", default_value_t = 100)]
    warm_up: u64,
    /// Largest norm of a step's gradient
    #[arg(long, value_name = "F", default_value_t = 10.0)]
    clip: f64,
    /// Share of the running mean of the weights that stays at each step; the mean is what is written
    #[arg(long, value_name = "F", default_value_t = 0.999)]
    ema: f64,
    /// Weight of the photo's features
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    content_weight: f64,
    /// Weight of the painting's statistics
    #[arg(long, value_name = "F")]
    style_weight: Option<f64>,
    /// Weight of differences between neighbouring pixels
    #[arg(long, value_name = "F", default_value_t = 0.0)]
    tv_weight: f64,
    /// Weight of such differences where the photo is even: skies and walls stay smooth
    #[arg(long, value_name = "F", default_value_t = 0.0)]
    even_weight: f64,
    /// Weight of light and dark lying where they do in the photo
    #[arg(long, value_name = "F", default_value_t = 0.0)]
    tone_weight: f64,
    /// Weight of broad areas having the photo's colours, as far as the painting has them
    #[arg(long, value_name = "F", default_value_t = 0.0)]
    broad_weight: f64,
    /// Layers at which content is compared
    #[arg(long, value_name = "LAYER,...", value_delimiter = ',')]
    content_layers: Vec<String>,
    /// Layers at which style is compared
    #[arg(long, value_name = "LAYER,...", value_delimiter = ',')]
    style_layers: Vec<String>,
    /// What of the style is compared
    #[arg(long, value_enum)]
    style_loss: Option<StyleLoss>,
    /// What crops and first weights are drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Steps averaged into one row of the curve
    #[arg(long, value_name = "N", default_value_t = 20)]
    log_every: u64,
    /// Steps between two checkpoints
    #[arg(long, value_name = "N", default_value_t = 250)]
    checkpoint_every: u64,
    /// Steps between two preview sheets; 0 makes none
    #[arg(long, value_name = "N", default_value_t = 500)]
    preview_every: u64,
    /// Folder of photos for the preview sheet [default: some of --photos]
    #[arg(long, value_name = "DIR")]
    preview_photos: Option<PathBuf>,
    /// Type of the weights written
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Where to compute: auto, cpu, cuda, cuda:N, metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Backend,
    /// CPU threads
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
}

/// What the two kinds leave to themselves.
struct Defaults {
    style_weight: f64,
    content_layers: &'static [&'static str],
    style_layers: &'static [&'static str],
    style_loss: StyleLoss,
}

/// Pictures on a preview sheet.
const PREVIEW_PHOTOS: usize = 4;

impl Common {
    fn check(&self) -> Result<()> {
        let positive = [("--lr", self.lr), ("--clip", self.clip)];
        if let Some((flag, _)) = positive.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            return Err(Error::usage(flag, "must be above 0"));
        }
        let weights = [
            ("--content-weight", self.content_weight),
            ("--style-weight", self.style_weight.unwrap_or(0.0)),
            ("--tv-weight", self.tv_weight),
            ("--even-weight", self.even_weight),
            ("--tone-weight", self.tone_weight),
            ("--broad-weight", self.broad_weight),
        ];
        if let Some((flag, _)) = weights.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return Err(Error::usage(flag, "must be 0 or more"));
        }
        if self.dtype == Precision::Int8 {
            return Err(Error::usage("--dtype", "weights are not written in int8").with_hint("use f32, f16 or bf16"));
        }
        if !(0.0..1.0).contains(&self.ema) {
            return Err(Error::usage("--ema", "must be from 0 to below 1"));
        }
        check_zoom("--photo-zoom", self.photo_zoom)
    }

    fn course(&self) -> Course {
        Course {
            steps: self.steps,
            batch: usize::from(self.batch),
            learning_rate: self.lr,
            decay: self.decay,
            warm_up: self.warm_up,
            clip: self.clip,
            ema: self.ema,
            seed: self.seed,
            log_every: self.log_every,
            checkpoint_every: self.checkpoint_every,
            preview_every: self.preview_every,
            resume: self.resume,
            dtype: self.dtype.dtype(),
        }
    }

    fn panel(&self, defaults: &Defaults, device: &Device, printer: &Printer) -> anyhow::Result<Panel> {
        let names = |given: &[String], default: &[&str]| {
            if given.is_empty() { default.iter().map(|&name| name.to_owned()).collect() } else { given.to_vec() }
        };
        let weights = Weights {
            content: self.content_weight,
            style: self.style_weight.unwrap_or(defaults.style_weight),
            content_layers: names(&self.content_layers, defaults.content_layers),
            style_layers: names(&self.style_layers, defaults.style_layers),
            style_loss: self.style_loss.unwrap_or(defaults.style_loss),
        };
        let mut judges = Vec::new();
        for backbone in &self.backbone {
            let path = nets::locate("--backbone", backbone, printer)?;
            let vb = Checkpoint::open(&path)?.var_builder(DType::F32, device);
            let net = Backbone::open(Pooling::Max, vb)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            judges.push(Perceptual::new(Box::new(BackboneJudge::new(net, name)), weights.clone())?);
        }
        let (content, style) = (weights.content, weights.style);
        let balance = Balance {
            content,
            style,
            variation: self.tv_weight,
            even: self.even_weight,
            tone: self.tone_weight,
            broad: self.broad_weight,
        };
        Ok(Panel::new(judges, self.turns, balance))
    }

    fn variables(&self, device: &Device) -> Result<Variables> {
        let start = self.from.as_ref().map(Checkpoint::open).transpose()?;
        Ok(Variables::new(self.seed, start, device))
    }

    /// The photos, and those of the preview sheet.
    fn open_photos(&self, printer: &Printer) -> Result<(Dataset, Vec<image::RgbImage>)> {
        let crops = Crops { size: self.size, short_side: self.size * 9 / 8, zoom: self.photo_zoom, jitter: 0.0 };
        let crops = widened(crops);
        let photos = open(&self.photos, crops, 0, printer)?;
        let preview = match &self.preview_photos {
            Some(folder) => open(folder, crops, 0, printer)?.samples(PREVIEW_PHOTOS)?,
            None => photos.samples(PREVIEW_PHOTOS)?,
        };
        Ok((photos, preview))
    }

    /// Trains and says where everything is.
    fn train(
        &self,
        lesson: &mut impl Lesson,
        variables: &Variables,
        device: &Device,
        printer: &Printer,
    ) -> anyhow::Result<()> {
        let files = Files::new(&self.output);
        printer.note(format_args!("{} weights", variables::count(&variables.all())));
        let mut bar = printer.bar();
        let lines = !std::io::stderr().is_terminal();
        let report = |progress: &Progress| {
            interrupt::check()?;
            // A log wants lines, not a bar.
            if lines && progress.done.is_multiple_of(self.log_every.max(1)) {
                printer.note(format_args!("{}/{}  {}", progress.done, progress.total, progress.label));
            }
            bar.report(progress)
        };
        let mut report = report;
        let done = train::run(lesson, variables, &self.course(), &files, device, &mut report);
        if matches!(done, Err(Error::Interrupted)) {
            printer.note(format_args!("stopped; `--resume` goes on from {}", files.checkpoint().display()));
        }
        done?;
        printer.line(self.output.display())
    }
}

fn check_zoom(flag: &str, zoom: f64) -> Result<()> {
    if (1.0..=8.0).contains(&zoom) { Ok(()) } else { Err(Error::usage(flag, "must be from 1 to 8")) }
}

/// Pictures are kept large enough for the widest crop.
fn widened(crops: Crops) -> Crops {
    let widest = (f64::from(crops.size) * crops.zoom).ceil() as u32;
    Crops { short_side: crops.short_side.max(widest), ..crops }
}

/// Reads a folder and warns of files that are no pictures.
fn open(folder: &Path, crops: Crops, stream: u64, printer: &Printer) -> Result<Dataset> {
    let mut bar = printer.bar();
    let dataset = Dataset::open(folder, crops, stream, &mut |progress| bar.report(progress))?;
    bar.clear();
    for (_, error) in dataset.skipped() {
        printer.warn(format_args!("left out: {error}"));
    }
    Ok(dataset)
}
