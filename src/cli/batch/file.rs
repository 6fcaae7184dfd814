//! The job file: its tables and keys, checked by name and type. What the values lead to comes later.

use super::entry::{Entry, Faults, Item, parse};
use super::keys::{CONTENT, Command, Key, Keys, Kind, WORDED};
use impasto::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A job file past this size is none.
const MAX_BYTES: u64 = 64 << 20;
/// What pictures are called where the file does not say.
const FILE: &str = "{index}.png";

/// Names of the file itself, the defaults and a job beside the flags, each with its explanation. The schema has them too.
pub(super) const TOP: [(&str, &str); 3] = [
    (
        "output",
        "The folder the pictures go to, from the job file's own folder [default: the job file's name without its ending]",
    ),
    ("defaults", "Keys of every job that has such a key and does not say otherwise"),
    ("job", "The jobs, in the order their pictures are numbered in"),
];
/// Of the defaults and of a job.
pub(super) const SHARED: [(&str, &str); 3] = [
    ("command", "What the job runs; its keys are the flags of that command, without their dashes"),
    (
        "file",
        "What pictures are called, such as \"{job}/{content}-{style}-{seed}.png\": {index}, {job}, {id}, any key, any wildcard; {prompt:30} cuts it [default: {index}.png]",
    ),
    (
        "wildcards",
        "Whether the wildcards of a job are combined with each other and with its other axes, or walk side by side with [job.zip] [default: cross]",
    ),
];
/// Of a job alone.
pub(super) const JOB: [(&str, &str); 4] = [
    ("name", "What the job is called [default: job1, job2, ...]"),
    ("grid", "The axes that `--grid` lays from left to right and from top to bottom [default: the first two]"),
    ("matrix", "Axes: every value of each with every value of the others"),
    ("zip", "One more axis: its lists are of one length and walk side by side"),
];

/// How wildcards are expanded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Wildcards {
    /// Every line of each with every line of the others.
    #[default]
    Cross,
    /// Side by side, together with the job's zip.
    Zip,
}

/// The words for them.
pub(super) const WILDCARDS: [&str; 2] = ["cross", "zip"];

/// One `[[job]]`, with the defaults filled in.
#[derive(Debug)]
pub(super) struct Job {
    /// Where it begins.
    pub(super) line: usize,
    /// What it is called.
    pub(super) name: String,
    /// What it runs.
    pub(super) command: Command,
    /// The template of its pictures' names.
    pub(super) file: (String, usize),
    /// How its wildcards are expanded.
    pub(super) wildcards: Wildcards,
    /// Which axes a grid shows.
    pub(super) grid: Vec<String>,
    /// Where `grid` stands.
    pub(super) grid_line: usize,
    /// What holds for all its pictures.
    pub(super) keys: BTreeMap<String, (Value, usize)>,
    /// Its axes, in the order of the file, each with its line.
    pub(super) matrix: Vec<(String, Entry)>,
    /// The keys that walk side by side.
    pub(super) zip: Vec<(String, Entry)>,
}

/// A job file.
#[derive(Debug, Default)]
pub(super) struct JobFile {
    /// The folder of its pictures.
    pub(super) output: Option<String>,
    /// Its jobs.
    pub(super) jobs: Vec<Job>,
}

/// The text of a job file.
pub(super) fn text(path: &Path) -> Result<String> {
    let there = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
    if there.is_dir() {
        return Err(Error::file(path, "is a folder, not a job file"));
    }
    if there.len() > MAX_BYTES {
        return Err(Error::file(path, format!("is no job file: {} bytes", there.len())));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    String::from_utf8(bytes).map_err(|_| Error::file(path, "is no job file: it is not UTF-8"))
}

/// Reads a job file. Every fault is added to `faults`; the answer is of use only where there is none.
pub(super) fn read(text: &str, keys: &Keys, faults: &mut Faults) -> JobFile {
    let mut file = JobFile::default();
    let mut defaults = Table::default();
    let mut jobs = Vec::new();
    let top = parse(text, faults);
    if top.is_empty() && !faults.is_empty() {
        return file;
    }
    for (name, entry) in top {
        match (name.as_str(), entry.item) {
            ("output", Item::One(Value::String(folder))) if !folder.is_empty() => file.output = Some(folder),
            ("output", _) => faults.add(entry.line, "output", "is not the name of a folder", None),
            ("defaults", Item::Table(entries)) => defaults = Table::read(entries, true, keys, faults),
            ("defaults", _) => faults.add(entry.line, "defaults", "is a table: [defaults]", None),
            ("job", Item::List(list)) => jobs = list,
            ("job", _) => faults.add(entry.line, "job", "is a list of tables: [[job]]", None),
            (name, _) => {
                let near = super::keys::nearest(name, TOP.iter().map(|(known, _)| *known));
                let hint = match near {
                    Some(near) => format!("the nearest is `{near}`"),
                    None => {
                        "at the top stand `output`, [defaults] and [[job]]; the keys of jobs stand in those".to_owned()
                    }
                };
                faults.add(entry.line, name, "is no key of a job file", Some(hint));
            }
        }
    }
    if jobs.is_empty() && faults.is_empty() {
        faults.add(1, "job", "is missing", Some("each job begins with a line [[job]]".to_owned()));
    }
    let mut names = HashMap::new();
    for (index, entry) in jobs.into_iter().enumerate() {
        let Item::Table(entries) = entry.item else {
            faults.add(entry.line, "job", "is no table", Some("each job begins with a line [[job]]".to_owned()));
            continue;
        };
        let table = Table::read(entries, false, keys, faults);
        let Some(job) = table.job(&defaults, entry.line, index, keys, faults) else { continue };
        if let Some(before) = names.insert(job.name.to_lowercase(), job.line) {
            let reason = format!("\"{}\" is the name of the job on line {before} already", job.name);
            faults.add(job.line, "name", reason, None);
        }
        file.jobs.push(job);
    }
    file
}

/// The keys of a job or of the defaults as they stand there.
#[derive(Default)]
struct Table {
    command: Option<Command>,
    name: Option<String>,
    file: Option<(String, usize)>,
    wildcards: Option<Wildcards>,
    grid: (Vec<String>, usize),
    flags: Vec<(String, Entry)>,
    matrix: Vec<(String, Entry)>,
    zip: Vec<(String, Entry)>,
}

impl Table {
    fn read(entries: Vec<(String, Entry)>, defaults: bool, keys: &Keys, faults: &mut Faults) -> Self {
        let mut table = Self::default();
        for (name, entry) in entries {
            let line = entry.line;
            if defaults && JOB.iter().any(|(known, _)| *known == name) {
                faults.add(line, &name, "belongs to a job, not to the defaults", None);
                continue;
            }
            let mut wrong = |reason: &str| faults.add(line, &name, reason, None);
            match (name.as_str(), entry.item) {
                ("command", Item::One(Value::String(word))) => {
                    table.command = Command::ALL.into_iter().find(|command| command.name() == word);
                    if table.command.is_none() {
                        wrong(&format!("\"{word}\" is not one of \"generate\", \"stylize\""));
                    }
                }
                ("command", _) => wrong("is not one of \"generate\", \"stylize\""),
                ("name", Item::One(Value::String(name))) if !name.trim().is_empty() => table.name = Some(name),
                ("name", _) => wrong("is not a name"),
                ("file", Item::One(Value::String(file))) => table.file = Some((file, line)),
                ("file", _) => wrong("is not a text such as \"{job}/{index}.png\""),
                ("wildcards", Item::One(Value::String(word))) if WILDCARDS.contains(&word.as_str()) => {
                    table.wildcards = Some(if word == "zip" { Wildcards::Zip } else { Wildcards::Cross });
                }
                ("wildcards", _) => wrong("is not one of \"cross\", \"zip\""),
                ("grid", Item::List(list)) => {
                    let text = |entry: &Entry| match &entry.item {
                        Item::One(Value::String(text)) => Some(text.clone()),
                        _ => None,
                    };
                    let axes: Vec<_> = list.iter().filter_map(text).collect();
                    if axes.len() != list.len() || !(1..=2).contains(&axes.len()) {
                        wrong("is not a list of one or two axes");
                    }
                    table.grid = (axes, line);
                }
                ("grid", _) => wrong("is not a list of one or two axes"),
                ("matrix", Item::Table(axes)) => table.matrix = axes,
                ("zip", Item::Table(axes)) => table.zip = axes,
                ("matrix" | "zip", _) => wrong("is a table of axes"),
                (_, item) => table.flags.push((name, Entry { line, item })),
            }
        }
        if defaults {
            table.check_defaults(keys, faults);
        }
        table
    }

    // A key of the defaults belongs to one of the commands at least.
    fn check_defaults(&mut self, keys: &Keys, faults: &mut Faults) {
        self.flags.retain(|(name, entry)| {
            let known: Vec<_> = Command::ALL.into_iter().filter_map(|command| keys.get(command, name)).collect();
            let Some(first) = known.first() else {
                let structure: Vec<_> = SHARED.iter().map(|(name, _)| *name).collect();
                let (reason, hint) = keys.unknown(&Command::ALL, name, &structure);
                faults.add(entry.line, name, reason, hint);
                return false;
            };
            // Where both commands know the name but mean different things, one of them has to fit.
            if !known.iter().any(|key| plain(key, entry, &mut Faults::new(String::new())).is_some()) {
                plain(first, entry, faults);
                return false;
            }
            true
        });
    }

    fn job(self, defaults: &Self, line: usize, index: usize, keys: &Keys, faults: &mut Faults) -> Option<Job> {
        let Some(command) = self.command.or(defaults.command) else {
            let hint = "command = \"generate\" or command = \"stylize\", in the job or in [defaults]";
            faults.add(line, "command", "is missing", Some(hint.to_owned()));
            return None;
        };
        let structure: Vec<_> = SHARED.iter().chain(&JOB).map(|(name, _)| *name).collect();
        let mut job = Job {
            line,
            name: self.name.unwrap_or_else(|| format!("job{}", index + 1)),
            command,
            file: self.file.or_else(|| defaults.file.clone()).unwrap_or_else(|| (FILE.to_owned(), line)),
            wildcards: self.wildcards.or(defaults.wildcards).unwrap_or_default(),
            grid: self.grid.0,
            grid_line: self.grid.1,
            keys: BTreeMap::new(),
            matrix: Vec::new(),
            zip: Vec::new(),
        };
        for (name, entry) in self.flags {
            let Some(key) = keys.get(command, &name) else {
                let (reason, hint) = keys.unknown(&[command], &name, &structure);
                faults.add(entry.line, &name, reason, hint);
                continue;
            };
            // Photos are an axis wherever they stand: a folder is many of them.
            if name == CONTENT {
                job.matrix.push((name, entry));
            } else if let Some(value) = plain(key, &entry, faults) {
                job.keys.insert(name, (value, entry.line));
            }
        }
        for (axes, given) in [(&mut job.matrix, self.matrix), (&mut job.zip, self.zip)] {
            for (name, entry) in given {
                let Some(key) = keys.get(command, &name) else {
                    let (reason, hint) = keys.unknown(&[command], &name, &[]);
                    faults.add(entry.line, &name, reason, hint);
                    continue;
                };
                check_axis(key, &entry, faults);
                axes.push((name, entry));
            }
        }
        let mut seen = HashMap::new();
        let plain_keys = job.keys.iter().map(|(name, (_, line))| (name, *line));
        for (name, line) in plain_keys.chain(job.matrix.iter().chain(&job.zip).map(|(name, entry)| (name, entry.line)))
        {
            if let Some(before) = seen.insert(name.clone(), line) {
                faults.add(line, name, format!("stands on line {before} already"), None);
            }
        }
        for (name, entry) in &defaults.flags {
            let known = keys.get(command, name).filter(|_| !seen.contains_key(name));
            match known {
                Some(_) if name == CONTENT => job.matrix.insert(0, (name.clone(), entry.clone())),
                Some(key) => {
                    if let Some(value) = plain(key, entry, faults) {
                        job.keys.insert(name.clone(), (value, entry.line));
                    }
                }
                None => {}
            }
        }
        Some(job)
    }
}

// The value of a key that is no axis.
fn plain(key: &Key, entry: &Entry, faults: &mut Faults) -> Option<Value> {
    let checked = |value: &Value, faults: &mut Faults| match key.check(value) {
        Ok(()) if key.kind == Kind::Path && is_pattern(value) && key.name != CONTENT => {
            let hint = format!("patterns are axes: put `{}` into [job.matrix]", key.name);
            faults.add(entry.line, &key.name, format!("{value} is no file"), Some(hint));
            None
        }
        Ok(()) => Some(value.clone()),
        Err(reason) => {
            let range = key.kind == Kind::Whole && value.as_str().is_some_and(|text| text.contains(".."));
            let hint = format!("a range is an axis: put `{}` into [job.matrix]", key.name);
            faults.add(entry.line, &key.name, reason, if range { Some(hint) } else { key.nearest(value) });
            None
        }
    };
    match &entry.item {
        Item::One(value) => checked(value, faults),
        Item::List(list) if key.many || key.name == CONTENT => {
            let one = |item: &Entry| match &item.item {
                Item::One(value) => checked(value, faults),
                _ => {
                    faults.add(item.line, &key.name, "is a list of lists", None);
                    None
                }
            };
            let values: Vec<_> = list.iter().map(one).collect::<Option<_>>()?;
            (!values.is_empty()).then_some(Value::Array(values))
        }
        Item::List(_) => {
            let hint = format!("several values are an axis: put `{}` into [job.matrix]", key.name);
            faults.add(entry.line, &key.name, "is a list, and takes one value", Some(hint));
            None
        }
        Item::Table(_) => {
            faults.add(entry.line, &key.name, "is a table, and takes a value", None);
            None
        }
    }
}

/// Whether a text has the wildcards of a pattern over file names in it and is no file's name.
pub(super) fn is_pattern(value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    text.contains(['*', '?']) && Path::new(text).symlink_metadata().is_err()
}

// An axis is a list of values, or one text that stands for several: a range, a pattern, a folder, a wildcard.
fn check_axis(key: &Key, entry: &Entry, faults: &mut Faults) {
    let hint = || match key.kind {
        Kind::Whole => Some(format!("{} = [1, 2, 5] or {} = \"0..10\"", key.name, key.name)),
        _ => Some(format!("{} = [..., ...]", key.name)),
    };
    match &entry.item {
        Item::One(value) if stands_for_several(key, value) => {
            if let Err(reason) = key.check(value)
                && key.kind != Kind::Whole
            {
                faults.add(entry.line, &key.name, reason, None);
            }
        }
        Item::List(list) if !list.is_empty() => {
            for item in list {
                match &item.item {
                    Item::One(value) if stands_for_several(key, value) && key.kind == Kind::Whole => {}
                    Item::One(value) => {
                        if let Err(reason) = key.check(value) {
                            faults.add(item.line, &key.name, reason, key.nearest(value));
                        }
                    }
                    Item::List(_) if key.many => drop(plain(key, item, faults)),
                    Item::List(_) => faults.add(item.line, &key.name, "is a list of lists, and takes one value", None),
                    Item::Table(_) => faults.add(item.line, &key.name, "is a table, and takes a value", None),
                }
            }
        }
        _ => faults.add(entry.line, &key.name, "is no list of values", hint()),
    }
}

/// Whether one value of an axis may be more than one.
pub(super) fn stands_for_several(key: &Key, value: &Value) -> bool {
    match (&key.kind, value) {
        (Kind::Whole, Value::String(_)) | (Kind::Path, Value::String(_)) => true,
        (Kind::Text, Value::String(_)) => WORDED.contains(&key.name.as_str()),
        _ => false,
    }
}
