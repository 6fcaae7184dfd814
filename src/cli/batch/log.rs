//! The log: a line of JSON for every picture, that survives whatever ends the process.
//!
//! A picture is flushed to disk and renamed into place, then its line is appended in one write, then the next picture is begun.
//! So a line stands for a picture that is there, and where the process ends, at most one picture is there without its line. The
//! log is flushed to disk too, but not more often than every second: a power cut may take the lines of the last second, never
//! their pictures, which are known by their recipes. A line cut short is the last one, and is taken off before others follow.

use super::shard::Shard;
use crate::cli::Printer;
use impasto::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The log is flushed no more often than this.
const FLUSH: Duration = Duration::from_secs(1);

/// How a picture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    /// It was painted.
    Painted,
    /// It was there already, its line was not.
    Found,
    /// It could not be painted.
    Failed,
}

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Line {
    /// The picture's place among all of the file, from 1.
    pub(super) index: usize,
    /// The hash of its settings.
    pub(super) id: String,
    /// The job's name.
    pub(super) job: String,
    /// The picture, from the output folder.
    pub(super) path: String,
    /// How it ended.
    pub(super) status: Status,
    /// Why it could not be painted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// How long it took.
    pub(super) seconds: f64,
    /// The size of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    /// What may not be as it was meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
    /// Its command.
    pub(super) command: String,
    /// Its keys.
    pub(super) keys: Map<String, Value>,
}

/// What the logs of a folder say is there: picture by path, with its hash and size.
#[derive(Debug, Default)]
pub(super) struct History {
    there: HashMap<String, (String, u64)>,
    /// Whether there is any line at all.
    pub(super) begun: bool,
}

/// The log of this process.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    flushed: Option<Instant>,
}

impl History {
    /// Reads every log of a folder; other parts may be writing theirs.
    pub(super) fn read(folder: &Path, printer: &Printer) -> Result<Self> {
        let mut history = Self::default();
        let mut logs = Vec::new();
        let wrong = |error| Error::io(folder, error);
        for entry in std::fs::read_dir(folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_log = name == name_of(None) || (name.starts_with("batch-") && name.ends_with(".jsonl"));
            // A device or a pipe has nothing to tell, or no end.
            if is_log && path.is_file() {
                logs.push(path);
            }
        }
        logs.sort();
        for path in logs {
            let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
            let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').enumerate().peekable();
            while let Some((number, line)) = lines.next() {
                match serde_json::from_slice::<Line>(line) {
                    Ok(line) => history.take(line),
                    // The last one may be on its way, or cut short.
                    Err(_) if lines.peek().is_none() && !line.ends_with(b"\n") => {}
                    Err(error) => {
                        let (path, number) = (path.display(), number + 1);
                        printer.warn(format_args!("{path}:{number}: is no line of a log ({error}); passed over"));
                    }
                }
            }
        }
        Ok(history)
    }

    fn take(&mut self, line: Line) {
        self.begun = true;
        match line.bytes {
            Some(bytes) if line.status != Status::Failed => {
                self.there.insert(line.path, (line.id, bytes));
            }
            // What was painted before a later attempt failed is still there.
            _ => {}
        }
    }

    /// Hash and size of the picture that was last written to a path.
    pub(super) fn of(&self, path: &str) -> Option<(&str, u64)> {
        self.there.get(path).map(|(id, bytes)| (id.as_str(), *bytes))
    }
}

fn name_of(shard: Option<Shard>) -> String {
    format!("batch{}.jsonl", Shard::suffix(shard))
}

impl Log {
    /// Opens the log of a folder or a part of it, mending its end.
    pub(super) fn open(folder: &Path, shard: Option<Shard>, printer: &Printer) -> Result<Self> {
        let path = folder.join(name_of(shard));
        let wrong = |error| Error::io(&path, error);
        let file = File::options().create(true).append(true).read(true).open(&path).map_err(wrong)?;
        // A device or a pipe has no end to mend.
        let mut log = Self { length: 0, file, path: path.clone(), flushed: None };
        if log.file.metadata().map_err(wrong)?.is_file() {
            log.mend(printer).map_err(wrong)?;
            // The name, so that a power cut does not take the whole log with it.
            #[cfg(unix)]
            if let Ok(folder) = File::open(folder) {
                let _ = folder.sync_all();
            }
        }
        Ok(log)
    }

    // What stands behind the last line break is a line without its end, or a piece of one.
    fn mend(&mut self, printer: &Printer) -> std::io::Result<()> {
        let bytes = std::fs::read(&self.path)?;
        self.length = bytes.len() as u64;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let rest = &bytes[whole..];
        if rest.is_empty() {
            return Ok(());
        }
        if serde_json::from_slice::<Line>(rest).is_ok() {
            self.file.write_all(b"\n")?;
            self.length += 1;
        } else {
            self.file.set_len(whole as u64)?;
            self.length = whole as u64;
            let path = self.path.display();
            printer.warn(format_args!("{path}: its last line was cut short; taken off"));
        }
        self.file.sync_data()
    }

    /// Appends a line. One that does not fit leaves nothing of itself.
    pub(super) fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(|error| Error::io(&self.path, error.into()))?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes()).and_then(|()| match self.flushed {
            Some(before) if before.elapsed() < FLUSH => Ok(()),
            _ => self.sync(),
        });
        match written {
            Ok(()) => {
                self.length += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                let _ = self.file.set_len(self.length);
                Err(Error::io(&self.path, error))
            }
        }
    }

    /// Flushes what was appended to the disk.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.sync().map_err(|error| Error::io(&self.path, error))
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.flushed = Some(Instant::now());
        match self.file.sync_data() {
            // Pipes and devices cannot be flushed.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
            answer => answer,
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(index: usize, status: Status) -> Line {
        Line {
            index,
            id: format!("{index:016x}"),
            job: "a".into(),
            path: format!("{index}.png"),
            status,
            error: (status == Status::Failed).then(|| "why".into()),
            seconds: 0.5,
            bytes: (status != Status::Failed).then_some(7),
            warnings: Vec::new(),
            command: "generate".into(),
            keys: Map::new(),
        }
    }

    #[test]
    fn a_log_cut_anywhere_is_mended_and_loses_the_last_line_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let printer = Printer::new(true);
        let path = folder.path().join("batch.jsonl");
        let mut log = Log::open(folder.path(), None, &printer).unwrap();
        log.append(&line(1, Status::Painted)).unwrap();
        log.append(&line(2, Status::Failed)).unwrap();
        log.append(&line(3, Status::Found)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let second = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for cut in second..=whole.len() {
            for tail in [&b""[..], &[0; 5]] {
                std::fs::write(&path, [&whole[..cut], tail].concat()).unwrap();
                let mut log = Log::open(folder.path(), None, &printer).unwrap();
                log.append(&line(4, Status::Painted)).unwrap();
                let text = std::fs::read_to_string(&path).unwrap();
                let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                let before = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
                // A line that lacks its line break alone is whole.
                let unended = usize::from(tail.is_empty() && whole.get(cut) == Some(&b'\n'));
                assert_eq!(lines.len(), before + unended + 1, "cut at {cut}");
                assert_eq!((lines[0].index, lines.last().unwrap().index), (1, 4));
            }
        }
    }

    #[test]
    fn the_history_is_what_all_logs_say() {
        let folder = tempfile::tempdir().unwrap();
        let printer = Printer::new(true);
        assert!(!History::read(folder.path(), &printer).unwrap().begun);
        Log::open(folder.path(), None, &printer).unwrap().append(&line(1, Status::Painted)).unwrap();
        let shard = Some("2/3".parse().unwrap());
        let mut log = Log::open(folder.path(), shard, &printer).unwrap();
        log.append(&line(2, Status::Painted)).unwrap();
        log.append(&line(2, Status::Failed)).unwrap();
        log.append(&line(3, Status::Failed)).unwrap();
        let part = folder.path().join("batch-2-of-3.jsonl");
        let mut text = std::fs::read(&part).unwrap();
        text.extend(b"not json\n{\"ind");
        std::fs::write(&part, text).unwrap();
        let history = History::read(folder.path(), &printer).unwrap();
        assert_eq!(history.of("1.png"), Some(("0000000000000001", 7)));
        assert_eq!(history.of("2.png"), Some(("0000000000000002", 7)));
        assert_eq!(history.of("3.png"), None);
    }
}
