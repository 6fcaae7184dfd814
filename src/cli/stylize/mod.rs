//! `impasto stylize`: photos repainted in the style of a painting, by any of the methods.
//!
//! Everything that can be wrong is found before anything large is loaded: flags, then names, then style pictures, then nets.
//! A photo that cannot be painted does not stop the others.

mod contents;
mod diffusion;
mod gatys;
mod method;
mod output;
mod style;

use super::{Printer, interrupt};
use contents::Contents;
pub(crate) use diffusion::PRESET;
use impasto::device::{Backend, Precision};
use impasto::image::{read, write};
use impasto::pipeline::recipe::Input;
use impasto::pipeline::settings::Settings as DiffusionSettings;
use impasto::pipeline::stylize::{self, Method, Painting, Recipe, Stylizer};
use impasto::progress::Progress;
use impasto::style::colour::PreserveColor;
use impasto::{Error, Result};
use output::Job;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How much of the frame before is kept, where the user does not say.
const SMOOTH: f64 = 0.9;

/// Arguments of `impasto stylize`.
#[derive(Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct Args {
    /// The photos: files, folders, patterns such as "in/*.jpg"
    #[arg(value_name = "CONTENT", required_unless_present = "list")]
    contents: Vec<PathBuf>,

    /// A style picture and its part in the blend [default: 1], or the name of a style that came with the program (see
    /// --list); give the flag again for more of them
    #[arg(long, value_name = "IMAGE|NAME[:WEIGHT]", help_heading = "Style")]
    style: Vec<PathBuf>,
    /// How the style is brought over [default: adain; fast for the styles of --list]
    #[arg(long, value_enum, value_name = "METHOD", help_heading = "Style")]
    method: Option<Method>,
    /// What of the photo's colours is kept: luminance paints in the photo's own, histogram and coral move the style
    /// picture's towards them
    #[arg(long, value_enum, value_name = "WHAT", default_value = "none", help_heading = "Style")]
    preserve_color: PreserveColor,
    /// The long side of the style pictures in pixels: the larger, the larger the strokes [default: the method's]
    #[arg(long, value_name = "N", help_heading = "Style")]
    style_size: Option<u32>,
    /// The net, instead of the one that came with the program: a file of `impasto train`
    #[arg(long, value_name = "FILE", help_heading = "Style")]
    net: Option<PathBuf>,
    /// AdaIN as published: its encoder, `vgg_normalised.pth`
    #[arg(long, value_name = "FILE", requires = "decoder", conflicts_with = "net", help_heading = "Style")]
    encoder: Option<PathBuf>,
    /// AdaIN as published: its decoder, `decoder.pth`
    #[arg(long, value_name = "FILE", requires = "encoder", help_heading = "Style")]
    decoder: Option<PathBuf>,
    /// List the styles that came with the program
    #[arg(long, help_heading = "Style")]
    list: bool,

    /// The long side of the painting in pixels [default: the photo's; gatys: at most 512; diffusion: about a megapixel]
    #[arg(long, value_name = "N", help_heading = "Picture")]
    size: Option<u32>,
    /// Where to paint: white is painted, black stays the photo, grey mixes. A picture of the photo's shape, at any size, or
    /// a folder of masks with the photos' names
    #[arg(long, value_name = "IMAGE|DIR", help_heading = "Picture")]
    mask: Option<PathBuf>,
    /// The seed of every random draw
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Picture")]
    seed: u64,

    /// The photos are the frames of a video, in the order of their names: what stands still in it stands still in the
    /// painting
    #[arg(long, help_heading = "Video")]
    frames: bool,
    /// How much of the frame before is kept where nothing moves, from 0 to 1 [default: 0.9]
    #[arg(long, value_name = "F", requires = "frames", help_heading = "Video")]
    smooth: Option<f64>,

    #[command(flatten)]
    gatys: gatys::Flags,
    #[command(flatten)]
    diffusion: diffusion::Flags,
    #[command(flatten)]
    settings: DiffusionSettings,

    /// The picture to write, a .png or .jpg; for several photos a folder, where paintings have their photos' names
    #[arg(long, short, value_name = "FILE|DIR", required_unless_present = "list", help_heading = "Output")]
    output: Option<PathBuf>,
    /// What paintings in a folder are written as [default: png]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Output")]
    format: Option<output::Format>,
    /// Leave out photos whose painting is there already
    #[arg(long, conflicts_with = "frames", help_heading = "Output")]
    skip_existing: bool,
    /// Print one line of JSON per picture
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// Where to compute: auto, cpu, cuda, cuda:N, metal
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Device")]
    device: Backend,
    /// The type the UNet of --method diffusion computes in [default: f32 on the CPU, f16 on a GPU]
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Device")]
    dtype: Option<Precision>,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", help_heading = "Device", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// One finished picture, as `--json` prints it.
#[derive(Serialize)]
struct Painted<'a> {
    path: String,
    content: String,
    method: Method,
    warnings: &'a [String],
    width: u32,
    height: u32,
    seconds: Seconds,
    recipe: &'a Recipe,
}

/// How long each stage took. The style is encoded once for all photos, so it counts for the first of them.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Seconds {
    read: f64,
    encode_style: f64,
    stylize: f64,
    write: f64,
}

impl Seconds {
    fn all(&self) -> f64 {
        self.read + self.encode_style + self.stylize + self.write
    }
}

/// The flags that this command shares with `generate` are the diffusion method's here, but for `--strength`, which every
/// method has.
pub(crate) fn in_its_section(arg: clap::Arg) -> clap::Arg {
    if arg.get_long() == Some("strength") {
        let help = "How much of the style: 0 leaves the photo, 1 is all of it [default: 1; diffusion: the preset's]";
        return arg.help(help).help_heading("Style");
    }
    let shared = <DiffusionSettings as clap::Args>::augment_args(clap::Command::new(""));
    let is_shared = shared.get_arguments().any(|known| known.get_id() == arg.get_id());
    if is_shared { arg.help_heading("Method: diffusion") } else { arg }
}

/// Paints.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    if args.list {
        return list(args.json, printer);
    }
    let printer = &printer.quieter(args.json);
    let mut contents = Contents::find(&args.contents);
    if contents.photos.is_empty() && contents.missing.len() == 1 {
        return Err(contents.missing.remove(0).into());
    }
    if args.frames && contents.single {
        return Err(Error::usage("--frames", "needs a folder of frames, or a pattern that several files fit").into());
    }
    let method = method::Chosen::new(args)?;
    let output = args.output.as_deref().unwrap_or(Path::new(""));
    let (mut jobs, folder) = output::plan(output, args.format, &contents, &method.inputs(args))?;
    for error in &contents.missing {
        printer.error(error, error.hint());
    }
    let mut failed = contents.missing.len();
    if args.skip_existing {
        jobs.retain(|job| !job.output.exists());
    }
    let masks = Masks::open(args.mask.as_deref())?;
    let recipe = method.recipe(args)?;
    super::set_threads(args.threads)?;
    let painter = method.painter(args, jobs.len() > 1, printer)?;
    let smooth = args.frames.then(|| args.smooth.unwrap_or(SMOOTH));
    let settings =
        stylize::Settings { size: args.size, style_size: args.style_size, preserve_color: args.preserve_color, smooth };
    let mut stylizer = Stylizer::new(painter, method.styles, settings)?;
    if let Some(folder) = folder {
        std::fs::create_dir(&folder).map_err(|error| Error::io(&folder, error))?;
    }
    let total = jobs.len() + failed;
    for (index, job) in jobs.iter().enumerate() {
        interrupt::check()?;
        let place = if total > 1 { format!("{} of {}: ", index + 1, jobs.len()) } else { String::new() };
        let label = format!("{place}{}", job.photo.display());
        match paint(&mut stylizer, job, &masks, &recipe, printer, &label) {
            Ok((recipe, seconds, warnings)) if args.json => {
                let text = |path: &Path| path.to_string_lossy().into_owned();
                let (path, content) = (text(&job.output), text(&job.photo));
                let ((width, height), method) = (recipe.size, recipe.method);
                let (warnings, recipe) = (&warnings, &recipe);
                printer.json(&Painted { path, content, method, warnings, width, height, seconds, recipe })?;
            }
            Ok((_, seconds, warnings)) => {
                warnings.iter().for_each(|warning| printer.warn(warning));
                printer.line(job.output.display())?;
                printer.note(format_args!("{:.1} s", seconds.all()));
            }
            Err(error) if total == 1 || matches!(error, Error::Interrupted) => return Err(error.into()),
            Err(error) => {
                printer.error(&error, error.hint());
                failed += 1;
            }
        }
    }
    if failed > 0 {
        anyhow::bail!("{failed} of {total} could not be painted");
    }
    Ok(())
}

fn paint(
    stylizer: &mut Stylizer,
    job: &Job,
    masks: &Masks,
    recipe: &Recipe,
    printer: &Printer,
    label: &str,
) -> Result<(Recipe, Seconds, Vec<String>)> {
    let started = Instant::now();
    let mut bar = printer.bar();
    let photo = read::open(&job.photo)?;
    let mask = masks.of(&job.photo)?;
    let mut recipe = Recipe { content: Input::of(&job.photo)?, ..recipe.clone() };
    let read = started.elapsed().as_secs_f64();
    let grey = mask.as_deref().map(read::open_grey).transpose()?;
    recipe.mask = mask.as_deref().map(Input::of).transpose()?;
    stylizer.begin(&job.output);
    let painting = stylizer.paint(&photo, grey.as_ref(), &mut |progress| {
        bar.report(&Progress { label: label.to_owned(), ..progress.clone() })
    })?;
    bar.clear();
    let Painting { picture, warnings, encoding, painting } = painting;
    recipe.size = picture.dimensions();
    let writing = Instant::now();
    let json = recipe.json()?;
    let is_jpeg =
        job.output.extension().is_some_and(|it| it.eq_ignore_ascii_case("jpg") || it.eq_ignore_ascii_case("jpeg"));
    if is_jpeg {
        write::jpeg(&job.output, &picture, &json)?;
    } else {
        write::png(&job.output, &picture, &[(stylize::KEYWORD.to_owned(), json)])?;
    }
    let seconds = Seconds {
        read,
        encode_style: encoding.as_secs_f64(),
        stylize: painting.as_secs_f64(),
        write: writing.elapsed().as_secs_f64(),
    };
    Ok((recipe, seconds, warnings))
}

/// Where the masks are.
enum Masks {
    None,
    One(PathBuf),
    Folder(PathBuf),
}

impl Masks {
    // One mask for all is looked at before anything is painted.
    fn open(path: Option<&Path>) -> Result<Self> {
        match path {
            None => Ok(Self::None),
            Some(path) if path.is_dir() => Ok(Self::Folder(path.to_path_buf())),
            Some(path) => read::open_grey(path).map(|_| Self::One(path.to_path_buf())),
        }
    }

    fn of(&self, photo: &Path) -> Result<Option<PathBuf>> {
        match self {
            Self::None => Ok(None),
            Self::One(path) => Ok(Some(path.clone())),
            Self::Folder(folder) => {
                let name = photo.file_stem().unwrap_or_default();
                let there = contents::of_stem(folder, name)?;
                let missing = || Error::file(folder, format!("holds no mask called {}", name.to_string_lossy()));
                there.map(Some).ok_or_else(missing)
            }
        }
    }
}

fn list(json: bool, printer: &Printer) -> anyhow::Result<()> {
    let styles = stylize::bundled::STYLES;
    let width = styles.iter().map(|style| style.name.len()).max().unwrap_or(0);
    for style in styles {
        if json {
            printer.json(&serde_json::json!({ "name": style.name, "painting": style.painting }))?;
        } else {
            printer.line(format_args!("{:width$}  {}", style.name, style.painting))?;
        }
    }
    Ok(())
}
