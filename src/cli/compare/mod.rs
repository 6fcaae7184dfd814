//! `impasto compare`: methods with their settings on the same photos and paintings, in one report of pictures and numbers.
//!
//! First everything is painted, method by method, then everything is measured: a method's time and memory are its own. What is
//! there already is kept, so the same command goes on where it was stopped. A picture that fails is told in the report, the
//! others go on.

mod facts;
mod log;
mod measure;
mod methods;
mod paint;
mod plan;

use super::stylize::contents;
use super::{Printer, nets, writable};
use impasto::device::Backend;
use impasto::image::read::MAX_SIDE;
use impasto::metrics::Suite;
use impasto::pipeline::recipe::Input;
use impasto::pipeline::stylize::Method;
use impasto::pipeline::{SuiteOptions, default_backbone, open_suite};
use impasto::report::{self, Found, Report, Row};
use impasto::weights::{Cache, Manifest};
use impasto::{Error, Result};
use log::Log;
use plan::{Common, Plan};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Arguments of `impasto compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The photos: files, folders, patterns such as "in/*.jpg"; give the flag again for more
    #[arg(long, value_name = "IMAGE|DIR", required = true, num_args = 1..)]
    content: Vec<PathBuf>,
    /// The paintings, likewise
    #[arg(long, value_name = "IMAGE|DIR", required = true, num_args = 1..)]
    style: Vec<PathBuf>,
    /// The methods, with commas between them: adain, adain:FILE, gatys, fast:NAME, fast:FILE=PAINTING, diffusion,
    /// diffusion@PRESET
    #[arg(long, value_name = "METHOD,...", required = true, value_delimiter = ',', num_args = 1)]
    methods: Vec<String>,
    /// A flag of `impasto stylize` for all methods that have it, or for one: gatys.iterations=50; give it again for more
    #[arg(long, value_name = "[METHOD.]FLAG=VALUE")]
    set: Vec<String>,
    /// A flag in several settings, each a point on the method's curve: strength=0.2,0.5,1
    #[arg(long, value_name = "[METHOD.]FLAG=VALUE,...")]
    sweep: Vec<String>,
    /// The long side of all pictures in pixels: every number depends on it
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=i64::from(MAX_SIDE)))]
    size: u32,
    /// The seed of every random draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// The network that measures: a name (vgg19, vgg16) or a file; not the one that gatys optimises for [default: one
    /// that has been fetched]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Measuring")]
    backbone: Option<PathBuf>,
    /// A CLIP model in transformers' layout
    #[arg(long, value_name = "DIR", help_heading = "Measuring")]
    clip: Option<PathBuf>,
    /// HED's weights
    #[arg(long, value_name = "FILE", help_heading = "Measuring")]
    hed: Option<PathBuf>,
    /// LPIPS's weights: its whole state_dict, or its fitted layers
    #[arg(long, value_name = "FILE", help_heading = "Measuring")]
    lpips: Option<PathBuf>,
    /// The network under LPIPS's fitted layers, where they come alone: torchvision's AlexNet or VGG-16
    #[arg(long, value_name = "NAME|FILE", requires = "lpips", help_heading = "Measuring")]
    lpips_trunk: Option<PathBuf>,
    /// Inception nets for whole sets of pictures: pytorch-fid's for FID, art-fid's for ArtFID
    #[arg(long, value_name = "FILE", help_heading = "Measuring")]
    inception: Vec<PathBuf>,

    /// The folder of the report; what is there already is gone on with
    #[arg(long, short, value_name = "DIR", help_heading = "Output")]
    output: PathBuf,
    /// What the report is called
    #[arg(long, value_name = "TEXT", default_value = "Style transfer compared", help_heading = "Output")]
    title: String,

    /// Where to compute: auto, cpu, cuda, cuda:N, metal
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Device")]
    device: Backend,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", help_heading = "Device", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// Paints, measures and reports.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let (contents, styles) = (pictures("--content", &args.content)?, pictures("--style", &args.style)?);
    let names: Vec<_> = styles.iter().map(|path| plan::name_among(path, &styles)).collect();
    let contestants = methods::parse(&args.methods, &args.set, &args.sweep, &names)?;
    check_output(args)?;
    super::set_threads(args.threads)?;
    let (device, _) = args.device.open()?;
    let options = suite_options(args, contestants.iter().any(|one| one.kind == Method::Gatys), printer)?;
    // Opened once now, so that a broken file is told before the painting and not after it.
    drop(open_suite(&options, &device)?);
    let common = Common { size: args.size, seed: args.seed, device: args.device.to_string() };
    let mut plan = Plan::new(&contestants, (&contents, &styles), &common, printer)?;

    let folder = &args.output;
    if !folder.is_dir() {
        std::fs::create_dir(folder).map_err(|error| Error::io(folder, error))?;
    }
    let mut log = Log::open(folder)?;
    let done = paint::paint(&mut plan, (folder, args.size), &mut log, printer)?;

    let suite = open_suite(&options, &device)?;
    let mut facts = facts::machine_facts(&format!("{:?}", device.location()).to_lowercase());
    facts.extend(own_facts(args, &suite, &options)?);
    let mut report = report_of(plan, done, facts, &args.title, &suite);
    let prompts =
        report.rows.iter().filter_map(|row| Some((row.variant, row.recipe.get("prompt")?.as_str()?.to_owned())));
    let prompts: HashMap<_, _> = prompts.collect();
    let judge = measure::Judge { suite: &suite, fingerprint: fingerprint(&suite, &options)?, size: args.size, prompts };
    measure::measure(&mut report, &judge, folder, &mut log, printer).inspect_err(|error| {
        if matches!(error, Error::Interrupted) {
            printer.note("stopped; the same command goes on from here");
        }
    })?;
    let mut bar = printer.bar();
    report.write(folder, &mut |progress| bar.report(progress))?;
    bar.clear();
    printer.line(folder.join(report::PAGE).display())?;
    told(&report, printer)
}

/// What must not go unnoticed once the report is written.
fn told(report: &Report, printer: &Printer) -> anyhow::Result<()> {
    let broken: Vec<_> = report.gates.iter().filter_map(|gate| gate.broken.as_ref()).collect();
    for reason in &broken {
        printer.error(reason, Some("a network or a metric is broken: the numbers of this report cannot be trusted"));
    }
    let failed = report.failures().count();
    let all = report.rows.iter().filter(|row| report.variants[row.variant].anchor.is_none()).count();
    match (broken.is_empty(), failed) {
        (true, 0) => Ok(()),
        (true, failed) => anyhow::bail!("{failed} of {all} pictures failed; the report tells why"),
        (false, _) => anyhow::bail!("the sanity gates do not hold"),
    }
}

/// The pictures that paths, folders and patterns stand for.
fn pictures(flag: &str, given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in given {
        for picture in contents::expand(path)?.pictures(path) {
            if !found.contains(&picture) {
                found.push(picture);
            }
        }
    }
    if found.is_empty() {
        return Err(Error::usage(flag, "names no picture"));
    }
    Ok(found)
}

/// Refuses folders that a report would do harm in.
fn check_output(args: &Args) -> Result<()> {
    let folder = &args.output;
    let wrong = |reason: &str| Error::usage("--output", format!("{} {reason}", folder.display()));
    if folder.is_dir() {
        let same = |other: &PathBuf| other.canonicalize().ok().is_some_and(|it| folder.canonicalize().ok() == Some(it));
        if args.content.iter().chain(&args.style).any(same) {
            return Err(wrong("is a folder of pictures that go in").with_hint("name another folder for the report"));
        }
        let files = [report::PAGE, report::CSV, report::JSONL, report::PLANE, report::SHEET];
        if let Some(file) = files.iter().find(|file| folder.join(file).exists() && !Log::exists(folder)) {
            return Err(wrong(&format!("holds a {file} that is not of `impasto compare`"))
                .with_hint("name a new folder for the report"));
        }
        return writable::takes_files(folder);
    }
    if folder.exists() {
        return Err(wrong("is not a folder").with_hint("a report is a folder of files"));
    }
    let parent = folder.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(wrong("is in a folder that does not exist").with_hint("create the folder first"));
    }
    writable::takes_files(parent)
}

/// The nets that measure. With gatys among the methods, a fetched network that it does not optimise for is preferred.
fn suite_options(args: &Args, gatys: bool, printer: &Printer) -> anyhow::Result<SuiteOptions> {
    let located = |flag: &str, path: &Option<PathBuf>| {
        path.as_deref().map(|path: &Path| nets::locate(flag, path, printer)).transpose()
    };
    let backbone = match located("--backbone", &args.backbone)? {
        Some(path) => Some(path),
        None => Cache::from_env().ok().and_then(|cache| {
            let other = Manifest::find("vgg16").ok().and_then(|net| net.locate(&cache)).filter(|_| gatys);
            other.or_else(|| default_backbone(&cache).ok())
        }),
    };
    let optimised =
        args.set.iter().find_map(|text| text.strip_prefix("gatys.backbone=").or(text.strip_prefix("backbone=")));
    let optimised = match optimised {
        Some(net) => nets::locate("--set gatys.backbone", Path::new(net), printer).ok(),
        None => Cache::from_env().ok().and_then(|cache| default_backbone(&cache).ok()),
    };
    let real = |path: &Option<PathBuf>| path.as_ref().and_then(|path| path.canonicalize().ok());
    if gatys && backbone.is_some() && real(&backbone) == real(&optimised) {
        printer.warn(
            "gatys optimises for the network that measures it here, so its distances flatter it: name another with \
             --backbone or --set gatys.backbone=FILE",
        );
    }
    Ok(SuiteOptions {
        backbone,
        lpips: located("--lpips", &args.lpips)?,
        lpips_trunk: located("--lpips-trunk", &args.lpips_trunk)?,
        hed: located("--hed", &args.hed)?,
        clip: located("--clip", &args.clip)?,
        inception: args
            .inception
            .iter()
            .map(|path| nets::locate("--inception", path, printer))
            .collect::<Result<_, _>>()?,
    })
}

fn own_facts(args: &Args, suite: &Suite, options: &SuiteOptions) -> Result<Vec<(String, String)>> {
    let mut facts = vec![
        ("size".to_owned(), format!("{} pixels along the long side; paintings are measured at the same", args.size)),
        ("seed".to_owned(), args.seed.to_string()),
    ];
    if let (Some(name), Some(path)) = (suite.backbone(), &options.backbone) {
        let sha256 = if path.is_file() { format!(", SHA-256 {}", Input::of(path)?.sha256) } else { String::new() };
        facts.push(("measured by".to_owned(), format!("{name}: {}{sha256}", path.display())));
    }
    if !args.set.is_empty() {
        facts.push(("set".to_owned(), args.set.join("; ")));
    }
    Ok(facts)
}

/// What stands for the metrics and their nets: other nets, other numbers.
fn fingerprint(suite: &Suite, options: &SuiteOptions) -> Result<String> {
    let single = [&options.backbone, &options.lpips, &options.lpips_trunk, &options.hed, &options.clip];
    let mut text = env!("CARGO_PKG_VERSION").to_owned();
    for metric in suite.metrics() {
        text += metric.name;
    }
    for path in single.into_iter().flatten().chain(&options.inception) {
        text += &path.to_string_lossy();
        if path.is_file() {
            text += &Input::of(path)?.sha256;
        }
    }
    Ok(plan::hash_of(&text))
}

/// Plan and pictures as a report, still without numbers. Rows are in the order of photos, paintings and variants.
fn report_of(
    plan: Plan,
    done: Vec<Vec<paint::Done>>,
    facts: Vec<(String, String)>,
    title: &str,
    suite: &Suite,
) -> Report {
    let mut rows = Vec::new();
    for content in 0..plan.contents.len() {
        for style in 0..plan.styles.len() {
            for variant in 0..plan.variants.len() {
                if plan.variants[variant].anchor.is_some() {
                    rows.push(Row { content, style, variant, ..Row::default() });
                }
            }
        }
    }
    for (group, done) in plan.groups.iter().zip(done) {
        for (job, done) in group.jobs.iter().zip(done) {
            let row = Row { content: job.content, style: group.style, variant: group.variant, ..Row::default() };
            rows.push(match done.outcome {
                Ok((found, recipe)) => {
                    let mut recipe = serde_json::to_value(&recipe).unwrap_or_default();
                    if let (Some(prompt), Some(recipe)) = (&group.prompt, recipe.as_object_mut()) {
                        recipe.insert("prompt".to_owned(), prompt.as_str().into());
                    }
                    Row { picture: Some(job.picture.clone()), found, recipe, ..row }
                }
                Err(error) => Row { error: Some(error.to_string()), found: Found::default(), ..row },
            });
        }
    }
    rows.sort_by_key(|row| (row.content, row.style, row.variant));
    for row in &mut rows {
        row.values = vec![None; suite.metrics().len()];
    }
    Report {
        title: title.to_owned(),
        facts,
        contents: plan.contents,
        styles: plan.styles,
        variants: plan.variants,
        metrics: suite.metrics().to_vec(),
        set_metrics: Vec::new(),
        absent: suite.absent().to_vec(),
        gates: Vec::new(),
        rows,
    }
}
