//! Paints what is not there yet. Nets stay loaded from picture to picture; a picture that fails does not stop the others.

use super::log::Log;
use super::plan::{Group, Job, Plan, essence};
use crate::cli::loaded::Loaded;
use crate::cli::stylize::line::Line;
use crate::cli::{Printer, interrupt, machine};
use impasto::image::{read, write};
use impasto::pipeline::recipe::Input;
use impasto::pipeline::stylize::{self, Method, Painting, Recipe, Stylizer};
use impasto::progress::Progress;
use impasto::report::Found;
use impasto::{Error, Result};
use std::path::Path;
use std::time::Instant;

/// What became of a picture.
pub(super) struct Done {
    /// What was found out about it, and its whole recipe; or why there is none.
    pub(super) outcome: Result<(Found, Recipe)>,
}

/// Paints all pictures of a plan, and gives what became of them in the order of its groups and jobs.
pub(super) fn paint(
    plan: &mut Plan,
    (folder, size): (&Path, u32),
    log: &mut Log,
    printer: &Printer,
) -> anyhow::Result<Vec<Vec<Done>>> {
    let total = plan.len();
    let (mut all, mut number, mut there) = (Vec::with_capacity(plan.groups.len()), 0, 0);
    let mut loaded = Loaded::for_many();
    let mut easel: Option<(usize, Stylizer)> = None;
    for at in 0..plan.groups.len() {
        let group = &plan.groups[at];
        let name = plan.variants[group.variant].name();
        let mut done = Vec::with_capacity(group.jobs.len());
        // Opened when the first picture of the group is missing.
        let mut ready: Option<Result<()>> = None;
        let mut load_seconds = None;
        for job in &group.jobs {
            interrupt::check()?;
            number += 1;
            if let Some(found) = painted_before(folder, job, size, log) {
                there += 1;
                done.push(Done { outcome: Ok(found) });
                continue;
            }
            let outcome = attempt(job, || {
                let ready = ready.get_or_insert_with(|| match open(group, &mut easel, &mut loaded, printer) {
                    Ok(seconds) => {
                        load_seconds = seconds;
                        Ok(())
                    }
                    Err(error) => Err(error),
                });
                let stylizer = match (ready, &mut easel) {
                    (Ok(()), Some((_, stylizer))) => stylizer,
                    (Err(error), _) => return Err(copy_of(error)),
                    (Ok(()), None) => return Err(Error::usage("painter", "is missing")),
                };
                let (content, style) = (&plan.contents[job.content].name, &plan.styles[group.style].name);
                let label = format!("{number} of {total}: {name}, {content} as {style}");
                one(stylizer, job, (&plan.contents[job.content].file, folder), log, printer, &label)
            });
            match &outcome {
                Err(Error::Interrupted) => {
                    printer.note("stopped; the same command goes on from here");
                    return Err(Error::Interrupted.into());
                }
                Err(error) => printer.error(format_args!("{name}: {error}"), error.hint()),
                Ok(_) => {}
            }
            done.push(Done { outcome });
        }
        let variant = plan.groups[at].variant;
        if load_seconds.is_some() {
            plan.variants[variant].load_seconds = load_seconds;
        }
        all.push(done);
    }
    if there > 0 {
        printer.note(format_args!("{there} of {total} pictures were there already"));
    }
    Ok(all)
}

fn attempt(job: &Job, paint: impl FnOnce() -> Result<(Found, Recipe)>) -> Result<(Found, Recipe)> {
    match &job.recipe {
        Ok(_) => paint(),
        Err(error) => Err(copy_of(error)),
    }
}

/// The same error once more, for the next picture that it stops.
fn copy_of(error: &Error) -> Error {
    match error {
        Error::Interrupted => Error::Interrupted,
        Error::Usage { subject, reason, .. } => Error::usage(subject, reason),
        Error::File { path, reason, .. } => Error::file(path, reason),
        other => Error::Tensor(candle_core::Error::Msg(other.to_string())),
    }
}

/// A picture that was painted by the same recipe at the same size, and is still what it was.
fn painted_before(folder: &Path, job: &Job, size: u32, log: &Log) -> Option<(Found, Recipe)> {
    let path = folder.join(&job.picture);
    let recipe = Recipe::read(&path).ok()?;
    // The diffusion method paints at multiples of 8, and not below 64.
    let side = if recipe.method == Method::Diffusion { (size / 8 * 8).max(64) } else { size };
    if recipe.size.0.max(recipe.size.1) != side || essence(&recipe) != essence(job.recipe.as_ref().ok()?) {
        return None;
    }
    let sha256 = Input::of(&path).ok()?.sha256;
    let known = log.painted(&job.picture).filter(|found| found.sha256 == sha256);
    // Written, but its process ended before it was noted: how long it took is lost.
    let found = known.cloned().unwrap_or_else(|| Found { sha256, size: recipe.size, ..Found::default() });
    Some((found, recipe))
}

/// Makes the painter ready for a group: the one at hand where its nets are the same. Gives the seconds that loading took,
/// where nets were loaded.
fn open(
    group: &Group,
    easel: &mut Option<(usize, Stylizer)>,
    loaded: &mut Loaded,
    printer: &Printer,
) -> Result<Option<f64>> {
    let styles = group.line.styles()?;
    if let Some((variant, stylizer)) = easel
        && *variant == group.variant
        && !group.alone
    {
        stylizer.restyle(styles, group.line.settings())?;
        return Ok(None);
    }
    // The nets before make room first.
    *easel = None;
    let started = Instant::now();
    let painter = group.line.painter(loaded, printer).map_err(plain)?;
    let seconds = started.elapsed().as_secs_f64();
    *easel = Some((group.variant, Stylizer::new(painter, styles, Line::settings(&group.line))?));
    Ok(Some(rounded(seconds)))
}

/// Our own error out of one with context.
fn plain(error: anyhow::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::Tensor(candle_core::Error::Msg(format!("{error:#}"))),
    }
}

fn one(
    stylizer: &mut Stylizer,
    job: &Job,
    (photo, folder): (&Path, &Path),
    log: &mut Log,
    printer: &Printer,
    label: &str,
) -> Result<(Found, Recipe)> {
    let Ok(recipe) = &job.recipe else { return Err(Error::usage("photo", "cannot be read")) };
    let output = folder.join(&job.picture);
    if let Some(parent) = output.parent() {
        std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
    }
    let photo = read::open(photo)?;
    let mut bar = printer.bar();
    stylizer.begin(&output);
    machine::forget_peak_memory();
    let painting = stylizer
        .paint(&photo, None, &mut |progress| bar.report(&Progress { label: label.to_owned(), ..progress.clone() }))?;
    let peak_bytes = machine::peak_memory();
    bar.clear();
    let Painting { picture, warnings, encoding, painting } = painting;
    let recipe = Recipe { size: picture.dimensions(), ..recipe.clone() };
    write::png(&output, &picture, &[(stylize::KEYWORD.to_owned(), recipe.json()?)])?;
    let found = Found {
        sha256: Input::of(&output)?.sha256,
        size: picture.dimensions(),
        seconds: Some(rounded(painting.as_secs_f64())),
        // Nothing is learnt for the pictures after the first of a style.
        style_seconds: Some(rounded(encoding.as_secs_f64())).filter(|&seconds| seconds > 1e-4),
        peak_bytes,
        warnings,
    };
    log.note_painted(&job.picture, &found)?;
    Ok((found, recipe))
}

/// To the microsecond: what lies below is not known.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}
