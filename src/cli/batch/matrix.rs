//! From jobs to pictures: axes are crossed or walk side by side, patterns, folders, ranges and wildcards become values.

use super::entry::{Entry, Faults, Item};
use super::file::{Job, Wildcards, is_pattern, stands_for_several};
use super::keys::{CONTENT, Command, Key, Keys, Kind, PICTURES, Values, WORDED, called};
use super::wildcard;
use crate::cli::stylize::contents;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// More pictures than these are a slip of the pen.
const MOST: usize = 200_000;

/// An axis of a job.
#[derive(Debug)]
pub(super) struct Axis {
    /// Where it stands.
    line: usize,
    /// The keys it sets; wildcards by their own names.
    pub(super) names: Vec<String>,
    /// Its values.
    pub(super) points: Vec<Point>,
}

/// One value of an axis.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// What a person calls it.
    pub(super) label: String,
    /// Key, value and line; several keys where they walk side by side.
    set: Vec<(String, Value, usize)>,
}

/// A picture to paint.
#[derive(Debug)]
pub(super) struct Picture {
    /// Its place among all pictures of the file, from 1.
    pub(super) index: usize,
    /// Its job, by number.
    pub(super) job: usize,
    /// Everything that decides it.
    pub(super) values: Values,
    /// What its wildcards stand for.
    pub(super) words: Vec<(String, String)>,
    /// What tells it from every other: a hash of its settings, whatever it is called.
    pub(super) id: String,
    /// Its place on each of the job's axes.
    place: Vec<usize>,
}

/// A job with its axes found.
#[derive(Debug)]
pub(super) struct Laid {
    /// The job.
    pub(super) job: Job,
    /// Its axes; the last one changes fastest.
    pub(super) axes: Vec<Axis>,
    /// The picture of every place on the axes, by its number in the list of pictures. Places whose settings come out the
    /// same share one.
    pub(super) cells: Vec<usize>,
}

impl Laid {
    /// The line where the value of a picture's key stands.
    pub(super) fn line(&self, picture: &Picture, key: &str) -> usize {
        let of_axis = |(axis, place): (&Axis, &usize)| {
            let set = &axis.points[*place].set;
            set.iter().find(|(name, ..)| name == key).map(|(.., line)| *line)
        };
        let on_axis = self.axes.iter().zip(&picture.place).find_map(of_axis);
        on_axis.or(self.job.keys.get(key).map(|(_, line)| *line)).unwrap_or(self.job.line)
    }
}

/// Lays out every job. What cannot be expanded is a fault.
pub(super) fn expand(jobs: Vec<Job>, keys: &Keys, faults: &mut Faults) -> (Vec<Laid>, Vec<Picture>) {
    let (mut laid, mut pictures) = (Vec::new(), Vec::new());
    for (number, job) in jobs.into_iter().enumerate() {
        let axes = axes(&job, keys, faults);
        let count = axes.iter().try_fold(1usize, |all, axis| all.checked_mul(axis.points.len()));
        let mut job = Laid { job, axes, cells: Vec::new() };
        match count.filter(|count| pictures.len() + count <= MOST) {
            Some(count) => place(&mut job, number, count, &mut pictures),
            None => {
                let sides: Vec<_> = job.axes.iter().map(|axis| axis.points.len().to_string()).collect();
                let reason = format!("{} is more than the {MOST} pictures that a file may have", sides.join(" x "));
                faults.add(job.job.line, "job", reason, None);
            }
        }
        laid.push(job);
    }
    (laid, pictures)
}

// Every place on the axes, the last axis fastest.
fn place(laid: &mut Laid, job: usize, count: usize, pictures: &mut Vec<Picture>) {
    let mut seen = HashMap::new();
    for cell in 0..count {
        let mut rest = cell;
        let mut place = vec![0; laid.axes.len()];
        for (place, axis) in place.iter_mut().zip(&laid.axes).rev() {
            (*place, rest) = (rest % axis.points.len(), rest / axis.points.len());
        }
        let mut values: Values = laid.job.keys.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect();
        let mut words = Vec::new();
        for (axis, place) in laid.axes.iter().zip(&place) {
            for (name, value, _) in &axis.points[*place].set {
                match name.strip_prefix("__") {
                    Some(word) => words.push((word.to_owned(), super::keys::shown(value))),
                    None => drop(values.insert(name.clone(), value.clone())),
                }
            }
        }
        for key in WORDED {
            if let Some(Value::String(text)) = values.get_mut(key) {
                for (word, line) in &words {
                    *text = wildcard::fill(text, word, line);
                }
            }
        }
        // A seed drawn anew would be another picture at every start.
        if laid.job.command == Command::Generate && !values.contains_key("from") {
            values.entry("seed".to_owned()).or_insert_with(|| Value::from(0));
        }
        let id = identity(laid.job.command, &values);
        let at = *seen.entry(id.clone()).or_insert_with(|| {
            pictures.push(Picture { index: pictures.len() + 1, job, values, words, id, place });
            pictures.len() - 1
        });
        laid.cells.push(at);
    }
}

/// The same settings are the same picture, wherever it is painted.
fn identity(command: Command, values: &Values) -> String {
    let values: Values = values
        .iter()
        .filter(|(name, _)| *name != "device")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let text = serde_json::to_string(&(command, values)).unwrap_or_default();
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn axes(job: &Job, keys: &Keys, faults: &mut Faults) -> Vec<Axis> {
    let mut axes = Vec::new();
    for (name, entry) in &job.matrix {
        let Some(key) = keys.get(job.command, name) else { continue };
        let points = points(key, entry, faults);
        axes.push(Axis { line: entry.line, names: vec![name.clone()], points });
    }
    let mut zipped: Vec<Axis> = Vec::new();
    for (name, entry) in &job.zip {
        let Some(key) = keys.get(job.command, name) else { continue };
        let points = points(key, entry, faults);
        zipped.push(Axis { line: entry.line, names: vec![name.clone()], points });
    }
    for (name, line) in words(job, &axes, &zipped) {
        match wildcard::lines(&name) {
            Ok(lines) => {
                let point = |text: String| Point {
                    label: text.clone(),
                    set: vec![(format!("__{name}"), Value::from(text), line)],
                };
                let axis = Axis { line, names: vec![name.clone()], points: lines.into_iter().map(point).collect() };
                if job.wildcards == Wildcards::Zip { zipped.push(axis) } else { axes.push(axis) }
            }
            Err(error) => {
                let hint = format!("__{name}__ stands for the lines of {name}.txt beside the job file");
                faults.add(line, "prompt", error.to_string(), Some(hint));
            }
        }
    }
    axes.extend(side_by_side(zipped, faults));
    axes.sort_by_key(|axis| axis.line);
    axes
}

// The wildcards of a job in the order of its texts, each with the line of the first text it is in.
fn words(job: &Job, axes: &[Axis], zipped: &[Axis]) -> Vec<(String, usize)> {
    let plain = job.keys.iter().map(|(name, (value, line))| (name.as_str(), value, *line));
    let points = axes.iter().chain(zipped).flat_map(|axis| &axis.points).flat_map(|point| &point.set);
    let mut texts: Vec<_> = plain.chain(points.map(|(name, value, line)| (name.as_str(), value, *line))).collect();
    texts.sort_by_key(|(.., line)| *line);
    let mut found: Vec<(String, usize)> = Vec::new();
    for (name, value, line) in texts {
        let Some(text) = value.as_str().filter(|_| WORDED.contains(&name)) else { continue };
        for word in wildcard::names(text) {
            if !found.iter().any(|(known, _)| known == word) {
                found.push((word.to_owned(), line));
            }
        }
    }
    found
}

fn side_by_side(zipped: Vec<Axis>, faults: &mut Faults) -> Option<Axis> {
    let first = zipped.first()?;
    let (line, count) = (first.line, first.points.len());
    for axis in &zipped[1..] {
        if axis.points.len() != count && !axis.points.is_empty() && count > 0 {
            let reason = format!("{} values, but {} has {count}", axis.points.len(), first.names[0]);
            let hint = "what walks side by side is of one length".to_owned();
            faults.add(axis.line, &axis.names[0], reason, Some(hint));
            return None;
        }
    }
    let point = |at: usize| {
        let parts: Vec<_> = zipped.iter().filter_map(|axis| axis.points.get(at)).collect();
        let label = parts.iter().map(|part| part.label.as_str()).collect::<Vec<_>>().join(", ");
        Point { label, set: parts.into_iter().flat_map(|part| part.set.clone()).collect() }
    };
    let names = zipped.iter().flat_map(|axis| axis.names.clone()).collect();
    Some(Axis { line, names, points: (0..count).map(point).collect() })
}

fn points(key: &Key, entry: &Entry, faults: &mut Faults) -> Vec<Point> {
    let mut values = Vec::new();
    let mut add = |values: &mut Vec<_>, value: &Value, line: usize| match several(key, value) {
        Ok(found) => values.extend(found.into_iter().map(|value| (value, line))),
        Err((reason, hint)) => faults.add(line, &key.name, reason, hint),
    };
    match &entry.item {
        Item::One(value) => add(&mut values, value, entry.line),
        Item::List(list) => {
            for item in list {
                match &item.item {
                    Item::One(value) => add(&mut values, value, item.line),
                    Item::List(parts) => {
                        let one = |part: &Entry| match &part.item {
                            Item::One(value) => Some(value.clone()),
                            _ => None,
                        };
                        values.push((Value::Array(parts.iter().filter_map(one).collect()), item.line));
                    }
                    Item::Table(_) => {}
                }
            }
        }
        Item::Table(_) => {}
    }
    let point = |(value, line): (Value, usize)| Point {
        label: called(Some(&key.kind), &value),
        set: vec![(key.name.clone(), value, line)],
    };
    values.into_iter().map(point).collect()
}

type Reason = (String, Option<String>);

// What one value of an axis stands for.
fn several(key: &Key, value: &Value) -> Result<Vec<Value>, Reason> {
    let Some(text) = value.as_str().filter(|_| stands_for_several(key, value)) else { return Ok(vec![value.clone()]) };
    match key.kind {
        Kind::Whole => range(text),
        Kind::Path => {
            let path = Path::new(text);
            let folder = PICTURES.contains(&key.name.as_str()) && path.is_dir();
            if folder || is_pattern(value) || key.name == CONTENT {
                let found =
                    contents::expand(path).map_err(|error| (error.to_string(), error.hint().map(str::to_owned)))?;
                let text = |path: std::path::PathBuf| match path.into_os_string().into_string() {
                    Ok(text) => Ok(Value::from(text)),
                    Err(name) => Err((format!("{} is not UTF-8", name.to_string_lossy()), None)),
                };
                return found.pictures(path).into_iter().map(text).collect();
            }
            Ok(vec![value.clone()])
        }
        _ => Ok(vec![value.clone()]),
    }
}

// `3..6` is 3, 4, 5; `3..=6` goes up to 6.
fn range(text: &str) -> Result<Vec<Value>, Reason> {
    let wrong =
        |reason: &str| (format!("\"{text}\" {reason}"), Some("0..10 is 0 to 9, 0..=10 goes up to 10".to_owned()));
    let (from, to) = text.split_once("..").ok_or_else(|| wrong("is not a range"))?;
    let (to, closed) = to.strip_prefix('=').map_or((to, 0), |to| (to, 1));
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong("is not a range of whole numbers"));
    let (from, to) = (number(from)?, number(to)?);
    let end = to.checked_add(closed).ok_or_else(|| wrong("is too large a range"))?;
    if from >= end {
        return Err(wrong("is an empty range"));
    }
    if end - from > MOST as u64 {
        return Err(wrong("is too large a range"));
    }
    Ok((from..end).map(Value::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::batch::file;

    fn lay(text: &str) -> Result<(Vec<Laid>, Vec<Picture>), String> {
        let keys = Keys::new();
        let mut faults = Faults::new("jobs.toml".into());
        let file = file::read(text, &keys, &mut faults);
        let found = expand(file.jobs, &keys, &mut faults);
        match faults.into_errors() {
            Some((before, last)) => Err(before.first().unwrap_or(&last).to_string()),
            None => Ok(found),
        }
    }

    fn column(pictures: &[Picture], key: &str) -> Vec<String> {
        pictures.iter().map(|picture| super::super::keys::shown(&picture.values[key])).collect()
    }

    #[test]
    fn axes_are_crossed_the_last_one_fastest() {
        let (laid, pictures) =
            lay("[[job]]\ncommand = 'generate'\nprompt = 'x'\n[job.matrix]\nsteps = [2, 3]\nseed = ['0..2', 9]\n")
                .unwrap();
        assert_eq!(column(&pictures, "steps"), ["2", "2", "2", "3", "3", "3"]);
        assert_eq!(column(&pictures, "seed"), ["0", "1", "9", "0", "1", "9"]);
        assert_eq!(pictures.iter().map(|picture| picture.index).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(laid[0].cells, [0, 1, 2, 3, 4, 5]);
        assert_eq!((laid[0].line(&pictures[4], "seed"), laid[0].line(&pictures[4], "prompt")), (6, 3));
    }

    #[test]
    fn a_zip_walks_side_by_side_and_is_crossed_with_the_rest() {
        let text = "[[job]]\ncommand = 'generate'\n[job.zip]\nprompt = ['a', 'b']\nseed = [7, 8]\n[job.matrix]\nsteps = [2, 3]\n";
        let (_, pictures) = lay(text).unwrap();
        assert_eq!(column(&pictures, "prompt"), ["a", "a", "b", "b"]);
        assert_eq!(column(&pictures, "seed"), ["7", "7", "8", "8"]);
        assert_eq!(column(&pictures, "steps"), ["2", "3", "2", "3"]);
        let uneven = lay("[[job]]\ncommand = 'generate'\n[job.zip]\nprompt = ['a', 'b']\nseed = '0..3'\n").unwrap_err();
        assert!(uneven.starts_with("jobs.toml:5: seed: 3 values"), "{uneven}");
    }

    #[test]
    fn what_comes_out_the_same_is_one_picture() {
        let (laid, pictures) =
            lay("[[job]]\ncommand = 'generate'\nprompt = 'x'\n[job.matrix]\nsteps = [2, 3, 2]\n").unwrap();
        assert_eq!((pictures.len(), laid[0].cells.as_slice()), (2, &[0, 1, 0][..]));
        // A device is where, not what.
        let one = |more: &str| lay(&format!("[[job]]\ncommand = 'generate'\nprompt = 'x'\n{more}")).unwrap().1;
        assert_eq!(one("device = 'cpu'")[0].id, one("")[0].id);
        assert_eq!(one("seed = 0")[0].id, one("")[0].id);
        assert_ne!(one("seed = 1")[0].id, one("")[0].id);
    }

    #[test]
    fn ranges_that_are_none_and_too_many_pictures_are_refused() {
        for (seeds, told) in [
            ("'9..3'", "empty"),
            ("'0..x'", "whole"),
            ("'5'", "not a range"),
            ("'0..99999999999'", "too large"),
            ("'0..18446744073709551616'", "whole"),
            ("'0..=18446744073709551615'", "too large"),
            ("[]", "no list"),
            ("[1.5]", "whole"),
            ("[-1]", "whole"),
        ] {
            let error = lay(&format!("[[job]]\ncommand = 'generate'\nprompt = 'x'\n[job.matrix]\nseed = {seeds}\n"))
                .unwrap_err();
            assert!(error.starts_with("jobs.toml:5: seed: ") && error.contains(told), "{seeds}: {error}");
        }
        let error =
            lay("[[job]]\ncommand = 'generate'\nprompt = 'x'\n[job.matrix]\nseed = '0..1000'\nsteps = '1..1000'\n");
        assert!(error.unwrap_err().contains("200000"));
    }
}
