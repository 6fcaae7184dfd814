//! `impasto metrics`: how much of a photo a painted picture has kept, how much of a painting it has taken on.

use super::{Printer, nets};
use impasto::Error;
use impasto::device::Backend;
use impasto::image::{read, resize};
use impasto::metrics::{Absent, Better, Metric, Subject, Suite};
use impasto::pipeline::stylize::canvas::with_long_side;
use impasto::pipeline::{SuiteOptions, default_backbone, open_suite};
use impasto::weights::Cache;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `impasto metrics`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The photo that was painted
    #[arg(value_name = "PHOTO")]
    photo: PathBuf,
    /// The picture judged, of the photo's size
    #[arg(value_name = "PAINTED")]
    painted: PathBuf,
    /// The painting whose style was asked for; without --size it is taken at the size it has
    #[arg(long, value_name = "IMAGE")]
    style: Option<PathBuf>,
    /// The words that were asked for
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Bring all pictures to this long side first (Lanczos)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=8192))]
    size: Option<u32>,
    /// Resize the photo (Lanczos) where the picture judged has another size
    #[arg(long)]
    resize: bool,
    /// The network of content and style distance: a name (vgg19, vgg16) or a .safetensors or .pth file of a VGG [default: the one that has been fetched, if any]
    #[arg(long, value_name = "NAME|FILE")]
    backbone: Option<PathBuf>,
    /// A CLIP model in transformers' layout
    #[arg(long, value_name = "DIR")]
    clip: Option<PathBuf>,
    /// HED's weights
    #[arg(long, value_name = "FILE")]
    hed: Option<PathBuf>,
    /// LPIPS's weights: its whole state_dict, or its fitted layers
    #[arg(long, value_name = "FILE")]
    lpips: Option<PathBuf>,
    /// The network under LPIPS's fitted layers, where they come alone: torchvision's AlexNet or VGG-16
    #[arg(long, value_name = "NAME|FILE", requires = "lpips")]
    lpips_trunk: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:N, metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Backend,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let printer = &printer.quieter(args.json);
    let open_sized = |path: &PathBuf| {
        let picture = read::open(path)?;
        match args.size {
            Some(size) => {
                let (width, height) = with_long_side(picture.dimensions(), size);
                resize::lanczos(&picture, width, height)
            }
            None => Ok(picture),
        }
    };
    let mut photo = open_sized(&args.photo)?;
    let painted = open_sized(&args.painted)?;
    let style = args.style.as_ref().map(open_sized).transpose()?;
    if photo.dimensions() != painted.dimensions() {
        let ((width, height), (from_width, from_height)) = (painted.dimensions(), photo.dimensions());
        if !args.resize {
            let reason = format!("{width} x {height} pixels, but the photo has {from_width} x {from_height}");
            let error = Error::file(&args.painted, reason);
            return Err(error.with_hint("--resize brings the photo to that size (Lanczos)").into());
        }
        photo = resize::lanczos(&photo, width, height)?;
        printer.note(format_args!("the photo was resized from {from_width} x {from_height} to {width} x {height}"));
    }
    let suite = open(args, printer)?;
    let subject =
        Subject { photo: Some(&photo), style: style.as_ref(), painted: &painted, prompt: args.prompt.as_deref() };
    let mut bar = printer.bar();
    let (photo_look, painted_look) = (suite.look(&photo), suite.look(&painted));
    let style_look = style.as_ref().map(|style| suite.look(style));
    let values = suite.judge_watched(
        Some(&photo_look),
        style_look.as_ref(),
        &painted_look,
        subject.prompt,
        &mut |progress| bar.report(progress),
    )?;
    bar.clear();
    // Whole sets are judged elsewhere: of one picture there is nothing to say about them.
    let sets = |absent: &&Absent| absent.metric.with != impasto::metrics::With::Set;
    let mut absent: Vec<Absent> = suite.absent().iter().filter(sets).cloned().collect();
    absent.extend(suite.missing(&subject));
    let metrics = suite.metrics().iter().filter_map(|metric| {
        let (_, value) = values.iter().find(|(name, _)| *name == metric.name)?;
        Some((metric, *value))
    });
    if args.json {
        let measured: Vec<Value> = metrics.map(|(metric, value)| shown(metric, Some(value))).collect();
        return printer.json(&json!({
            "photo": args.photo,
            "painted": args.painted,
            "style": args.style,
            "prompt": args.prompt,
            "backbone": suite.backbone(),
            "metrics": measured,
            "absent": absent.iter().map(|absent| {
                let mut entry = shown(&absent.metric, None);
                entry["reason"] = json!(absent.reason);
                entry["how"] = json!(absent.how);
                entry
            }).collect::<Vec<_>>(),
        }));
    }
    for (metric, value) in metrics {
        let better = match metric.better {
            Better::Higher => "higher is better",
            Better::Lower => "lower is better",
            Better::None => "",
        };
        let value = format!("{value:.*}", metric.digits);
        printer.line(format!("{:18} {value:>10}  {better:16}  {}", metric.name, metric.about).trim_end())?;
    }
    if let Some(backbone) = suite.backbone() {
        printer.line(format_args!("\ncontent, style and Gram distance by {backbone}"))?;
    }
    print_absent(&absent, printer)
}

fn open(args: &Args, printer: &Printer) -> anyhow::Result<Suite> {
    let located = |flag: &str, path: &Option<PathBuf>| {
        path.as_deref().map(|path: &Path| nets::locate(flag, path, printer)).transpose()
    };
    let options = SuiteOptions {
        backbone: match located("--backbone", &args.backbone)? {
            Some(path) => Some(path),
            None => Cache::from_env().and_then(|cache| default_backbone(&cache)).ok(),
        },
        lpips: located("--lpips", &args.lpips)?,
        lpips_trunk: located("--lpips-trunk", &args.lpips_trunk)?,
        hed: located("--hed", &args.hed)?,
        clip: located("--clip", &args.clip)?,
        ..SuiteOptions::default()
    };
    let (device, _) = args.device.open()?;
    Ok(open_suite(&options, &device)?)
}

fn shown(metric: &Metric, value: Option<f64>) -> Value {
    let mut entry = json!(metric);
    if let Some(value) = value {
        entry["value"] = json!(value);
    }
    entry
}

/// One line for all metrics that are absent for the same reason.
fn print_absent(absent: &[Absent], printer: &Printer) -> anyhow::Result<()> {
    let mut groups: Vec<(Vec<&str>, &Absent)> = Vec::new();
    for one in absent {
        match groups.iter_mut().find(|(_, first)| (&first.reason, &first.how) == (&one.reason, &one.how)) {
            Some((names, _)) => names.push(one.metric.name),
            None => groups.push((vec![one.metric.name], one)),
        }
    }
    for (at, (names, one)) in groups.iter().enumerate() {
        let gap = if at == 0 { "\n" } else { "" };
        printer.line(format_args!("{gap}absent: {}: {}; {}", names.join(", "), one.reason, one.how))?;
    }
    Ok(())
}
