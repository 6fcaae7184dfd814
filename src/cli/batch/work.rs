//! The night's work: what is there is left alone, the rest is painted, and every picture is recorded as it is done.

use super::lock::Lock;
use super::log::{History, Line, Log, Status};
use super::studio::Studio;
use super::{Args, Batch, Folder, Keys};
use crate::cli::printer::Closed;
use crate::cli::{Printer, interrupt, writable};
use impasto::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

/// Paints every picture that is not there yet.
pub(super) fn run(
    batch: &Batch,
    folder: &Folder,
    args: &Args,
    device: Option<&str>,
    keys: &mut Keys,
    printer: &Printer,
) -> anyhow::Result<()> {
    let started = Instant::now();
    std::fs::create_dir_all(&folder.real).map_err(|error| Error::io(&folder.shown, error))?;
    writable::takes_files(&folder.real)?;
    let _lock = Lock::take(&folder.real, args.shard, printer)?;
    let history = History::read(&folder.real, printer)?;
    if !args.resume {
        refuse_to_repeat(batch, folder, &history)?;
    }
    sweep(batch, folder);
    let mut log = Log::open(&folder.real, args.shard, printer)?;
    let mut studio = Studio::new(keys, device);
    let todo = left(batch, folder, &history, &mut studio, &mut log, printer)?;
    for part in batch.paths.iter().filter_map(|path| path.parent()).collect::<HashSet<_>>() {
        let part = folder.real.join(part);
        std::fs::create_dir_all(&part).map_err(|error| Error::io(&part, error))?;
    }
    locate(batch, &todo, &mut studio, printer)?;

    let there = batch.order.len() - todo.len();
    if there > 0 {
        printer.note(format_args!("{there} of {} pictures are there", batch.order.len()));
    }
    let limit = args.max_hours.map(|hours| Duration::from_secs_f64((hours * 3600.0).min(1e15)));
    let mut pace = Pace::default();
    let mut failed = 0;
    let mut out_of_time = None;
    for (done, &at) in todo.iter().enumerate() {
        interrupt::check()?;
        let rest = &todo[done..];
        let next = pace.of(batch.needs[at].model).unwrap_or_default();
        if limit.is_some_and(|limit| started.elapsed() + next > limit) {
            out_of_time = Some(rest.len());
            break;
        }
        let place = match pace.left(rest.iter().map(|&at| batch.needs[at].model)) {
            Some(left) => format!("{} of {}, {} left", done + 1, todo.len(), clock(left)),
            None => format!("{} of {}", done + 1, todo.len()),
        };
        let began = Instant::now();
        let path = folder.real.join(&batch.paths[at]);
        let shown = folder.shown.join(&batch.paths[at]);
        let command = batch.laid[batch.pictures[at].job].job.command;
        let label = format!("{place}: {}", shown.display());
        let painted = studio.paint(command, &batch.pictures[at], batch.needs[at], &path, &label, printer);
        let took = began.elapsed();
        let mut line = line(batch, at, Status::Painted, took);
        match painted {
            Ok(warnings) => {
                line.warnings = warnings;
                line.bytes = Some(std::fs::metadata(&path).map_err(|error| Error::io(&path, error))?.len());
                log.append(&line).map_err(|error| stopped(error, todo.len() - done - 1))?;
                pace.add(batch.needs[at].model, took);
                if args.json {
                    printer.json(&line)?;
                } else {
                    printer.line(shown.display())?;
                    printer.note(format_args!("{place}: {:.1} s", took.as_secs_f64()));
                }
            }
            Err(error) if ends_all(&error) => return Err(told(error, rest.len())),
            Err(error) => {
                line.status = Status::Failed;
                line.error = Some(format!("{error:#}"));
                log.append(&line).map_err(|error| stopped(error, rest.len()))?;
                failed += 1;
                let hint = error.chain().find_map(|cause| cause.downcast_ref::<Error>()).and_then(Error::hint);
                printer.error(format_args!("{}: {error:#}", shown.display()), hint);
                if args.json {
                    printer.json(&line)?;
                }
            }
        }
    }
    log.flush()?;
    super::draw(batch, folder, args, printer)?;
    match (out_of_time, failed) {
        (None, 0) => Ok(()),
        (None, _) => {
            let log = folder.shown.join(log.path().file_name().unwrap_or_default());
            anyhow::bail!("{failed} of {} pictures could not be painted: see {}", todo.len(), log.display())
        }
        (Some(left), failed) => {
            let failed = if failed > 0 { format!(", {failed} could not be painted") } else { String::new() };
            let hint = "--resume goes on";
            let hours = args.max_hours.unwrap_or_default();
            Err(Error::file(&folder.shown, format!("{hours} hours are over with {left} pictures left{failed}"))
                .with_hint(hint)
                .into())
        }
    }
}

/// Whether a picture is on the disk as the log says.
pub(super) fn is_there(history: &History, id: &str, path: &str, real: &Path) -> bool {
    match (history.of(path), std::fs::metadata(real)) {
        (Some((known, bytes)), Ok(there)) => known == id && there.is_file() && there.len() == bytes,
        _ => false,
    }
}

// A folder that holds a batch already is not painted over unasked.
fn refuse_to_repeat(batch: &Batch, folder: &Folder, history: &History) -> Result<()> {
    let hint = "--resume goes on with it and leaves what is there; --output names another folder";
    let mine = |at: &&usize| folder.real.join(&batch.paths[**at]).exists();
    let there = batch.order.iter().find(mine);
    if let Some(at) = there {
        let path = folder.shown.join(&batch.paths[*at]);
        return Err(Error::usage("--output", format!("{} is there already", path.display())).with_hint(hint));
    }
    let paths: HashSet<_> = batch.order.iter().map(|at| batch.paths[*at].to_string_lossy()).collect();
    if history.begun && paths.iter().any(|path| history.of(path).is_some()) {
        let reason = format!("{} holds a batch already", folder.shown.display());
        return Err(Error::usage("--output", reason).with_hint(hint));
    }
    Ok(())
}

// The pictures that are not there. One whose line is missing, because the process ended between the two, is known by its
// recipe and gets its line.
fn left(
    batch: &Batch,
    folder: &Folder,
    history: &History,
    studio: &mut Studio<'_>,
    log: &mut Log,
    printer: &Printer,
) -> Result<Vec<usize>> {
    let mut left = Vec::new();
    let mut others = Vec::new();
    for &at in &batch.order {
        let picture = &batch.pictures[at];
        let real = folder.real.join(&batch.paths[at]);
        let text = batch.paths[at].to_string_lossy();
        if is_there(history, &picture.id, &text, &real) {
            continue;
        }
        let command = batch.laid[picture.job].job.command;
        if let Ok(there) = std::fs::metadata(&real) {
            if studio.recognises(command, picture, &real) {
                let line = line(batch, at, Status::Found, Duration::ZERO);
                log.append(&Line { bytes: Some(there.len()), ..line })?;
                printer.note(format_args!("{} was painted, but not recorded", folder.shown.join(&*text).display()));
                continue;
            }
            if history.of(&text).is_some_and(|(id, bytes)| id != picture.id && bytes == there.len()) {
                others.push(text.into_owned());
                continue;
            }
        }
        left.push(at);
    }
    if let Some(first) = others.first() {
        let path = folder.shown.join(first);
        let more = if others.len() > 1 { format!(", and {} more", others.len() - 1) } else { String::new() };
        let reason = format!("was painted for other settings than the job file has now{more}");
        return Err(Error::file(path, reason)
            .with_hint("delete the pictures that are to be painted anew, or name another folder with --output"));
    }
    Ok(left)
}

// What a killed process left of pictures it was writing: their temporary files.
fn sweep(batch: &Batch, folder: &Folder) {
    let mine: HashSet<_> = batch.order.iter().map(|at| folder.real.join(&batch.paths[*at])).collect();
    for part in mine.iter().filter_map(|path| path.parent()).collect::<HashSet<_>>() {
        for entry in std::fs::read_dir(part).into_iter().flatten().flatten() {
            let name = entry.file_name();
            // `.NAME` and six letters.
            let inner = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".tmp"));
            let picture = inner.and_then(|inner| inner.get(..inner.len().checked_sub(6)?));
            if picture.is_some_and(|picture| mine.contains(&part.join(picture))) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

// Every net is found, and fetched where need be, before the first picture.
fn locate(batch: &Batch, todo: &[usize], studio: &mut Studio<'_>, printer: &Printer) -> anyhow::Result<()> {
    let mut found = HashSet::new();
    for &at in todo {
        if found.insert((batch.needs[at].model, batch.needs[at].adapters)) {
            interrupt::check()?;
            let job = &batch.laid[batch.pictures[at].job].job;
            let located = studio.locate(job.command, &batch.pictures[at], printer);
            located.map_err(|error| error.context(format!("the job {} on line {}", job.name, job.line)))?;
        }
    }
    Ok(())
}

fn line(batch: &Batch, at: usize, status: Status, took: Duration) -> Line {
    let picture = &batch.pictures[at];
    let job = &batch.laid[picture.job].job;
    Line {
        index: picture.index,
        id: picture.id.clone(),
        job: job.name.clone(),
        path: batch.paths[at].to_string_lossy().into_owned(),
        status,
        error: None,
        seconds: (took.as_secs_f64() * 1e4).round() / 1e4,
        bytes: None,
        warnings: Vec::new(),
        command: job.command.name().to_owned(),
        keys: picture.values.clone().into_iter().collect(),
    }
}

// Errors after which no other picture would fare better.
fn ends_all(error: &anyhow::Error) -> bool {
    error.is::<Closed>()
        || error.chain().filter_map(|cause| cause.downcast_ref::<Error>()).any(|error| match error {
            Error::Interrupted => true,
            Error::Io { reason, .. } => matches!(reason.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
            _ => false,
        })
}

fn told(error: anyhow::Error, left: usize) -> anyhow::Error {
    match error.downcast::<Error>() {
        Ok(error @ Error::Io { .. }) => stopped(error, left).into(),
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

// The disk is full, or the log cannot be written: what is not recorded would be painted twice.
fn stopped(error: Error, left: usize) -> Error {
    let Error::Io { path, reason } = error else { return error };
    Error::file(path, format!("{reason}; {left} pictures are left")).with_hint("make room, then --resume goes on")
}

/// How long pictures take, by the nets they need.
#[derive(Default)]
struct Pace {
    by_model: HashMap<usize, (u32, Duration)>,
}

impl Pace {
    fn add(&mut self, model: usize, took: Duration) {
        let (count, all) = self.by_model.entry(model).or_default();
        *count += 1;
        *all += took;
    }

    /// How long a picture takes with these nets; with any, where they are new.
    fn of(&self, model: usize) -> Option<Duration> {
        let mean = |(count, all): (u32, Duration)| all.checked_div(count);
        self.by_model
            .get(&model)
            .copied()
            .or_else(|| {
                let sum = |a: (u32, Duration), b: &(u32, Duration)| (a.0 + b.0, a.1 + b.1);
                (!self.by_model.is_empty()).then(|| self.by_model.values().fold((0, Duration::ZERO), sum))
            })
            .and_then(mean)
    }

    fn left(&self, models: impl Iterator<Item = usize>) -> Option<Duration> {
        let mut counts: HashMap<usize, u32> = HashMap::new();
        models.for_each(|model| *counts.entry(model).or_default() += 1);
        counts.into_iter().map(|(model, count)| Some(self.of(model)? * count)).sum()
    }
}

/// A duration as a clock shows it.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_knows_slow_nets_from_fast_ones() {
        let mut pace = Pace::default();
        assert_eq!(pace.left([0, 0].into_iter()), None);
        pace.add(0, Duration::from_secs(1));
        pace.add(0, Duration::from_secs(3));
        pace.add(1, Duration::from_secs(60));
        assert_eq!(pace.left([0, 1].into_iter()), Some(Duration::from_secs(62)));
        // New nets take as long as the mean of all.
        assert_eq!(pace.of(7), Some(Duration::from_secs(64) / 3));
        assert_eq!(
            (clock(Duration::from_secs(3723)), clock(Duration::from_secs(65))),
            ("1:02:03".into(), "1:05".into())
        );
    }
}
