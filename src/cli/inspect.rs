//! `impasto inspect`: one sheet that shows what a network keeps of a picture at each layer.

use super::{Printer, interrupt, nets, writable};
use impasto::Error;
use impasto::device::Backend;
use impasto::image::{read, write};
use impasto::ops::Pooling;
use impasto::pipeline::inspect::{Settings, Words, draw, inspect};
use impasto::pipeline::{default_backbone, open_backbone};
use impasto::weights::Cache;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `impasto inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The picture
    #[arg(value_name = "PICTURE")]
    picture: PathBuf,
    /// The picture whose style is shown [default: PICTURE]
    #[arg(long, value_name = "IMAGE")]
    style: Option<PathBuf>,
    /// The sheet to write, a .png
    #[arg(long, short, value_name = "PNG")]
    output: PathBuf,
    /// The network: a name (vgg19, vgg16) or a .safetensors or .pth file of a VGG [default: the one that has been fetched]
    #[arg(long, value_name = "NAME|FILE")]
    backbone: Option<PathBuf>,
    /// Its layers, with commas between them [default: the first of every block: relu1_1,relu2_1,...]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    layers: Vec<String>,
    /// The long side of the pictures it is shown
    #[arg(long, value_name = "N", default_value_t = Settings::default().size, value_parser = clap::value_parser!(u32).range(16..=4096))]
    size: u32,
    /// Steps of the optimisation per picture
    #[arg(long, value_name = "N", default_value_t = Settings::default().steps as u32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// What its pools take: averages rebuild smoother pictures, maxima are what it learned with
    #[arg(long, value_enum, value_name = "KIND", default_value = "average")]
    pooling: Pooling,
    /// The seed of the noise that everything begins as
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where to compute: auto, cpu, cuda, cuda:N, metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Backend,
}

/// Writes the sheet.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let started = Instant::now();
    writable::check("--output", &args.output, &writable::PNG)?;
    for input in [Some(&args.picture), args.style.as_ref()].into_iter().flatten() {
        if same(input, &args.output) {
            return Err(Error::usage("--output", format!("{} is also a picture that goes in", input.display())).into());
        }
    }
    let picture = read::open(&args.picture)?;
    let style = args.style.as_ref().map(read::open).transpose()?;
    let file = match &args.backbone {
        Some(backbone) => nets::locate("--backbone", backbone, printer)?,
        None => default_backbone(&Cache::from_env()?).map_err(unnamed)?,
    };
    let (device, _) = args.device.open()?;
    let net = open_backbone(&file, args.pooling, &device)?;
    let settings =
        Settings { layers: args.layers.clone(), size: args.size, steps: args.steps as usize, seed: args.seed };
    let mut bar = printer.bar();
    let inspection = inspect(&net, &picture, style.as_ref(), &settings, &mut |progress| bar.report(progress))?;
    bar.clear();
    interrupt::check()?;
    let called = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (width, height) = inspection.picture.dimensions();
    let pooling = if args.pooling == Pooling::Max { "max" } else { "average" };
    let words = Words {
        picture: called(&args.picture),
        style: args.style.as_deref().map(called),
        network: net.kind().to_string(),
        settings: format!(
            "Pictures of {width} × {height}, {} steps each, {pooling} pooling, seed {}. impasto {}",
            args.steps,
            args.seed,
            env!("CARGO_PKG_VERSION")
        ),
    };
    let sheet = draw(&inspection, &words);
    write::png(&args.output, &sheet, &[("Description".to_owned(), format!("{}. {}", words.network, words.settings))])?;
    printer.line(args.output.display())?;
    printer.note(format_args!("{:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Whether two paths lead to one file.
fn same(a: &Path, b: &Path) -> bool {
    a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// Nothing was fetched and nothing named: say both ways out.
fn unnamed(error: Error) -> Error {
    let hint = error.hint().map(|hint| format!("{hint} (approximately 575 MB), or name a file with `--backbone`"));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
