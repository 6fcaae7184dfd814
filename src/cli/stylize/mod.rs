//! `impasto stylize`: photos repainted in the style of a painting, by any of the methods.
//!
//! Everything that can be wrong is found before anything large is loaded: flags, then names, then style pictures, then nets.
//! A photo that cannot be painted does not stop the others.

pub(super) mod contents;
mod diffusion;
mod gatys;
pub(super) mod line;
mod method;
mod output;
mod style;

use super::loaded::Loaded;
use super::{Printer, interrupt};
use contents::Contents;
pub(crate) use diffusion::PRESET;
use impasto::device::{Backend, Precision};
use impasto::image::{read, write};
use impasto::pipeline::recipe::Input;
use impasto::pipeline::settings::Settings as DiffusionSettings;
use impasto::pipeline::stylize::{self, Method, Painting, Recipe, Style, Stylizer};
use impasto::progress::Progress;
use impasto::style::colour::PreserveColor;
use impasto::{Error, Result};
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
pub(super) struct Seconds {
    read: f64,
    encode_style: f64,
    stylize: f64,
    write: f64,
}

impl Seconds {
    /// All of it.
    pub(super) fn all(&self) -> f64 {
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
    let styles = method.styles()?;
    let output = args.output.as_deref().unwrap_or(Path::new(""));
    let (mut jobs, folder) = output::plan(output, args.format, &contents, &method.inputs(args))?;
    for error in &contents.missing {
        printer.error(error, error.hint());
    }
    let mut failed = contents.missing.len();
    if args.skip_existing {
        jobs.retain(|job| !job.output.exists());
    }
    super::set_threads(args.threads)?;
    let mut easel = Easel::new(args, &method, styles, jobs.len() > 1, &mut Loaded::default(), printer)?;
    if let Some(folder) = folder {
        std::fs::create_dir(&folder).map_err(|error| Error::io(&folder, error))?;
    }
    let total = jobs.len() + failed;
    for (index, job) in jobs.iter().enumerate() {
        interrupt::check()?;
        let place = if total > 1 { format!("{} of {}: ", index + 1, jobs.len()) } else { String::new() };
        let label = format!("{place}{}", job.photo.display());
        match easel.paint(&job.photo, &job.output, printer, &label) {
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

/// A method with its nets open and its styles read, ready for photos.
pub(super) struct Easel {
    stylizer: Stylizer,
    recipe: Recipe,
    masks: Masks,
}

/// What a painting needs, for who paints many.
pub(super) struct Nets {
    /// The net with what it computes on: equal where nothing else has to be loaded.
    pub(super) model: String,
    /// Its adapters.
    pub(super) adapters: String,
    /// The flags that can change without [`Easel::open`].
    pub(super) changeable: &'static [&'static str],
}

/// Checks everything that can be checked without opening a picture or a net.
pub(super) fn nets(args: &Args) -> Result<Nets> {
    let method = method::Chosen::new(args)?;
    args.for_every_photo().check()?;
    method.recipe(args)?;
    if let Some(mask) = &args.mask {
        std::fs::metadata(mask).map_err(|error| Error::io(mask, error))?;
    }
    let (model, adapters) = method.nets(args)?;
    let changeable: &[_] = match method.method {
        Method::Adain | Method::Diffusion => &["content", "mask", "size", "preserve-color", "style", "style-size"],
        Method::Gatys => &["content", "mask", "size", "preserve-color", "style"],
        Method::Fast => &["content", "mask", "size", "preserve-color"],
    };
    Ok(Nets { model, adapters, changeable })
}

/// Finds the nets, fetching those that have a name and are not here yet.
pub(super) fn locate(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    method::Chosen::new(args)?.locate(printer)
}

/// Whether the painting in a file is the one that would be painted of a photo, by its recipe.
pub(super) fn is_painted(args: &Args, photo: &Path, path: &Path) -> bool {
    let painted = || {
        let masks = Masks::open(args.mask.as_deref())?;
        let recipe = recipe_of(&method::Chosen::new(args)?.recipe(args)?, &masks, photo)?;
        let found = Recipe::read(path)?;
        // The diffusion method paints at multiples of 8.
        let long = found.size.0.max(found.size.1);
        let sized = args.size.is_none_or(|size| (long..long + 8).contains(&size));
        Ok::<_, Error>(sized && Recipe { size: found.size, ..recipe } == found)
    };
    painted().unwrap_or(false)
}

// The recipe for a photo, but for the painting's size.
fn recipe_of(recipe: &Recipe, masks: &Masks, photo: &Path) -> Result<Recipe> {
    let mask = masks.of(photo)?.as_deref().map(Input::of).transpose()?;
    Ok(Recipe { content: Input::of(photo)?, mask, ..recipe.clone() })
}

impl Easel {
    /// Reads the styles and opens the nets, for any number of photos.
    pub(super) fn open(args: &Args, loaded: &mut Loaded, printer: &Printer) -> anyhow::Result<Self> {
        let method = method::Chosen::new(args)?;
        let styles = method.styles()?;
        Self::new(args, &method, styles, true, loaded, printer)
    }

    /// Goes on with the same nets where only flags have changed that are [`Nets::changeable`].
    pub(super) fn restyle(&mut self, args: &Args) -> Result<()> {
        let method = method::Chosen::new(args)?;
        self.masks = Masks::open(args.mask.as_deref())?;
        self.recipe = method.recipe(args)?;
        self.stylizer.restyle(method.styles()?, args.for_every_photo())
    }

    /// Opens the nets, for one photo or for `several`.
    fn new(
        args: &Args,
        method: &method::Chosen,
        styles: Vec<Style>,
        several: bool,
        loaded: &mut Loaded,
        printer: &Printer,
    ) -> anyhow::Result<Self> {
        let masks = Masks::open(args.mask.as_deref())?;
        let recipe = method.recipe(args)?;
        let painter = method.painter(args, several, loaded, printer)?;
        let stylizer = Stylizer::new(painter, styles, args.for_every_photo())?;
        Ok(Self { stylizer, recipe, masks })
    }

    /// Paints one photo into a file.
    pub(super) fn paint(
        &mut self,
        photo: &Path,
        output: &Path,
        printer: &Printer,
        label: &str,
    ) -> Result<(Recipe, Seconds, Vec<String>)> {
        let started = Instant::now();
        let mut bar = printer.bar();
        let picture = read::open(photo)?;
        let mut recipe = recipe_of(&self.recipe, &self.masks, photo)?;
        let read = started.elapsed().as_secs_f64();
        let mask = self.masks.of(photo)?;
        let grey = mask.as_deref().map(read::open_grey).transpose()?;
        self.stylizer.begin(output);
        let painting = self.stylizer.paint(&picture, grey.as_ref(), &mut |progress| {
            bar.report(&Progress { label: label.to_owned(), ..progress.clone() })
        })?;
        bar.clear();
        let Painting { picture, warnings, encoding, painting } = painting;
        recipe.size = picture.dimensions();
        let writing = Instant::now();
        let json = recipe.json()?;
        if is_jpeg(output) {
            write::jpeg(output, &picture, &json)?;
        } else {
            write::png(output, &picture, &[(stylize::KEYWORD.to_owned(), json)])?;
        }
        let seconds = Seconds {
            read,
            encode_style: encoding.as_secs_f64(),
            stylize: painting.as_secs_f64(),
            write: writing.elapsed().as_secs_f64(),
        };
        Ok((recipe, seconds, warnings))
    }
}

impl Args {
    fn for_every_photo(&self) -> stylize::Settings {
        let smooth = self.frames.then(|| self.smooth.unwrap_or(SMOOTH));
        stylize::Settings { size: self.size, style_size: self.style_size, preserve_color: self.preserve_color, smooth }
    }
}

fn is_jpeg(path: &Path) -> bool {
    path.extension().is_some_and(|it| it.eq_ignore_ascii_case("jpg") || it.eq_ignore_ascii_case("jpeg"))
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
