//! `impasto batch`: a file of jobs becomes any number of pictures, overnight, on one machine or on many.
//!
//! The whole file is checked before the first picture: its keys, then what they lead to, then every picture's flags, names and
//! files, then the nets. After that only a picture's own failure is met, which is recorded while the rest goes on.

mod entry;
mod file;
mod grid;
mod keys;
mod lock;
mod log;
mod matrix;
mod names;
mod plan;
mod schema;
mod shard;
mod sheet;
mod studio;
mod wildcard;
mod work;

use super::Printer;
use entry::Faults;
use impasto::device::Backend;
use impasto::image::write;
use impasto::{Error, Result};
use keys::{Keys, shown};
use log::History;
use matrix::{Laid, Picture};
use plan::Needs;
use shard::Shard;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Arguments of `impasto batch`.
#[derive(Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct Args {
    /// The job file (docs/batch.md says what it holds); the paths in it are from its own folder
    #[arg(value_name = "JOBS.toml", required_unless_present = "schema")]
    jobs: Option<PathBuf>,
    /// The folder the pictures go to [default: the file's `output`, else its name without the ending]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// List what would be painted, in order, and paint nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on where an earlier run stopped: paint what is not there yet, and what failed
    #[arg(long)]
    resume: bool,
    /// Paint part I of N: every picture is in one of the parts, on whatever machine they are painted
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Begin no picture that would be finished later than after F hours
    #[arg(long, value_name = "F", value_parser = hours)]
    max_hours: Option<f64>,
    /// Put all pictures on a contact sheet at the end: sheet.png
    #[arg(long)]
    sheet: bool,
    /// Lay the pictures of each job out by its axes, which are labelled: grid-JOB.png
    #[arg(long)]
    grid: bool,
    /// Print one line of JSON per picture
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of job files
    #[arg(long, conflicts_with = "jobs")]
    schema: bool,
    /// Where to compute, whatever the jobs say: auto, cpu, cuda, cuda:N, metal
    #[arg(long, value_name = "DEVICE", help_heading = "Device")]
    device: Option<Backend>,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", help_heading = "Device", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

fn hours(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hours) if hours.is_finite() && hours > 0.0 => Ok(hours),
        _ => Err("is not a number of hours above 0".to_owned()),
    }
}

/// A checked job file.
struct Batch {
    laid: Vec<Laid>,
    pictures: Vec<Picture>,
    /// By the number of the picture, as the others.
    paths: Vec<PathBuf>,
    needs: Vec<Needs>,
    /// The numbers of the pictures to paint, in order.
    order: Vec<usize>,
}

/// Where the pictures go.
struct Folder {
    /// For reading and writing.
    real: PathBuf,
    /// As the user calls it from where they are.
    shown: PathBuf,
}

/// Paints.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let mut keys = Keys::new();
    if args.schema {
        return printer.line(serde_json::to_string_pretty(&schema::of(&keys))?);
    }
    let printer = &printer.quieter(args.json);
    let path = args.jobs.as_deref().unwrap_or(Path::new(""));
    let text = file::text(path)?;
    // Paths in the file are from its folder: everything below happens there.
    let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let given = args.output.as_ref().map(std::path::absolute).transpose()?;
    let home = std::path::absolute(beside)?;
    std::env::set_current_dir(&home).map_err(|error| Error::io(beside, error))?;

    let mut faults = Faults::new(path.display().to_string());
    let mut file = file::read(&text, &keys, &mut faults);
    let faults = settle(faults, printer)?;
    let device = args.device.map(|device| device.to_string());
    let output = file.output.take();
    let batch = check(file.jobs, args.shard, device.as_deref(), &mut keys, faults, printer)?;
    let name = output.map_or_else(|| PathBuf::from(path.file_stem().unwrap_or_default()), PathBuf::from);
    let folder = match (given, &args.output) {
        (Some(real), Some(shown)) => Folder { real, shown: shown.clone() },
        _ => Folder { real: home.join(&name), shown: if beside == Path::new(".") { name } else { beside.join(name) } },
    };
    refuse_inputs(&batch, &folder)?;
    if args.dry_run {
        return list(&batch, &folder, args, printer);
    }
    super::set_threads(args.threads)?;
    work::run(&batch, &folder, args, device.as_deref(), &mut keys, printer)
}

// Prints all faults but the last one, which is the error.
fn settle(faults: Faults, printer: &Printer) -> Result<Faults> {
    let name = faults.file().to_owned();
    match faults.into_errors() {
        None => Ok(Faults::new(name)),
        Some((before, last)) => {
            before.iter().for_each(|error| printer.error(error, error.hint()));
            Err(last)
        }
    }
}

// From the jobs to the pictures of this process, in order.
fn check(
    jobs: Vec<file::Job>,
    shard: Option<Shard>,
    device: Option<&str>,
    keys: &mut Keys,
    mut faults: Faults,
    printer: &Printer,
) -> Result<Batch> {
    let (laid, pictures) = matrix::expand(jobs, keys, &mut faults);
    let mut faults = settle(faults, printer)?;
    let paths = names::of(&laid, &pictures, keys, &mut faults);
    grid::check(&laid, &mut faults);
    let needs = plan::check(&laid, &pictures, device, keys, &mut faults);
    settle(faults, printer)?;
    let mine = |at: &usize| shard.is_none_or(|shard| shard.has(&pictures[*at].id));
    let order = plan::order(&needs).into_iter().filter(mine).collect();
    Ok(Batch { laid, pictures, paths, needs, order })
}

// A picture that goes in is never painted over.
fn refuse_inputs(batch: &Batch, folder: &Folder) -> Result<()> {
    if !folder.real.exists() {
        return Ok(());
    }
    let texts = batch.pictures.iter().flat_map(|picture| picture.values.values()).flat_map(|value| match value {
        serde_json::Value::Array(list) => list.as_slice(),
        value => std::slice::from_ref(value),
    });
    let texts: HashSet<_> = texts.filter_map(|value| value.as_str()).collect();
    let inputs: HashSet<_> = texts.into_iter().filter_map(|text| Path::new(text).canonicalize().ok()).collect();
    for path in &batch.paths {
        if folder.real.join(path).canonicalize().is_ok_and(|path| inputs.contains(&path)) {
            let reason = format!("{} is also a file that goes in", folder.shown.join(path).display());
            return Err(Error::usage("--output", reason).with_hint("name another folder"));
        }
    }
    Ok(())
}

// What would be painted, and what is there already.
fn list(batch: &Batch, folder: &Folder, args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let history = if folder.real.is_dir() { History::read(&folder.real, printer)? } else { History::default() };
    let mut there = 0;
    for at in &batch.order {
        let (picture, path) = (&batch.pictures[*at], &batch.paths[*at]);
        let text = path.to_string_lossy();
        let done = args.resume && work::is_there(&history, &picture.id, &text, &folder.real.join(path));
        there += usize::from(done);
        let job = &batch.laid[picture.job].job;
        if args.json {
            printer.json(&serde_json::json!({
                "index": picture.index, "id": picture.id, "job": job.name, "path": text, "there": done,
                "command": job.command.name(), "keys": picture.values,
            }))?;
        } else if !done {
            let shown = |(key, value): (&String, &serde_json::Value)| format!("{key}={}", shown(value));
            let keys: Vec<_> = picture.values.iter().map(shown).collect();
            let path = folder.shown.join(path);
            printer.line(format_args!("{}  {} {}", path.display(), job.command.name(), keys.join(" ")))?;
        }
    }
    let count = batch.order.len();
    let nets: HashSet<_> = batch.order.iter().map(|at| (batch.needs[*at].model, batch.needs[*at].adapters)).collect();
    let there = if there > 0 { format!("{there} of them are there; ") } else { String::new() };
    let nets = if nets.len() == 1 { "one set of nets".to_owned() } else { format!("{} sets of nets", nets.len()) };
    printer.note(format_args!("{count} pictures, {there}{nets}"));
    Ok(())
}

/// The contact sheet and the grids that were asked for, of what is there.
fn draw(batch: &Batch, folder: &Folder, args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let real: Vec<_> = batch.paths.iter().map(|path| folder.real.join(path)).collect();
    let suffix = Shard::suffix(args.shard);
    if args.sheet {
        let mut order = batch.order.clone();
        order.sort_unstable();
        let pages = order.chunks(sheet::PAGE);
        let several = pages.len() > 1;
        for (number, page) in (1..).zip(pages) {
            let name = |at: &usize| (real[*at].as_path(), batch.paths[*at].to_string_lossy().into_owned());
            let pictures: Vec<_> = page.iter().map(name).collect();
            let (first, last) = (batch.pictures[page[0]].index, batch.pictures[page[page.len() - 1]].index);
            let of = args.jobs.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            let sheet = sheet::contact(&format!("{of}: pictures {first} to {last}"), &pictures);
            let page = if several { format!("-{number}") } else { String::new() };
            let name = format!("sheet{suffix}{page}.png");
            write::png(folder.real.join(&name), &sheet, &[])?;
            printer.note(format_args!("{}", folder.shown.join(name).display()));
        }
    }
    for job in batch.laid.iter().filter(|_| args.grid) {
        let name = format!("grid-{}{suffix}.png", names::safe(&job.job.name, 60));
        let Some(grid) = grid::of(job, &real) else {
            printer.note(format_args!("the job {} has no axes, and no grid", job.job.name));
            continue;
        };
        match grid.draw() {
            Some(sheet) => {
                write::png(folder.real.join(&name), &sheet, &[])?;
                printer.note(format_args!("{}", folder.shown.join(name).display()));
            }
            None => printer.warn(format_args!("the grid of the job {} would be too large to look at", job.job.name)),
        }
    }
    Ok(())
}
