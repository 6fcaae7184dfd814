//! What is known of the pictures in an output folder, kept so that a comparison that was stopped goes on: a file of JSON lines,
//! a line appended for every picture painted and for every one measured.
//!
//! The file is locked by the operating system for as long as a comparison runs; a lock does not outlive its process.

use impasto::report::Found;
use impasto::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The file's name.
const NAME: &str = ".compare.jsonl";
/// A longer log is none of ours.
const MAX_BYTES: u64 = 1 << 30;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Entry {
    /// A picture was painted.
    Painted { picture: String, found: Found },
    /// A picture was measured: what with and of what is in the key. Values are texts, which are read back to the last digit.
    Measured { key: String, values: HashMap<String, String> },
}

/// The log of an output folder, with all its lines read.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    painted: HashMap<String, Found>,
    measured: HashMap<String, HashMap<String, f64>>,
}

impl Log {
    /// Whether a folder has one.
    pub(super) fn exists(folder: &Path) -> bool {
        folder.join(NAME).exists()
    }

    /// Opens the log of a folder and locks it.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let io = |error| Error::io(&path, error);
        let mut file = File::options().create(true).read(true).append(true).open(&path).map_err(io)?;
        match file.try_lock() {
            // A file system without locks: two processes at once are the user's to avoid.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::file(folder, "another `impasto compare` is at work in this folder")
                    .with_hint("wait for it to end, or name another folder"));
            }
        }
        let mut bytes = Vec::new();
        (&mut file).take(MAX_BYTES).read_to_end(&mut bytes).map_err(io)?;
        // A line that was cut off by the end of its process is no line.
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(io)?;
            file.seek(SeekFrom::End(0)).map_err(io)?;
        }
        let mut log = Self { path, file, painted: HashMap::new(), measured: HashMap::new() };
        for line in bytes[..whole].split(|&byte| byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(Entry::Painted { picture, found }) => drop(log.painted.insert(picture, found)),
                Ok(Entry::Measured { key, values }) => {
                    let number = |(name, text): (String, String)| Some((name, text.parse().ok()?));
                    log.measured.insert(key, values.into_iter().filter_map(number).collect());
                }
                // Damaged: as if that picture had not been.
                Err(_) => {}
            }
        }
        Ok(log)
    }

    /// What was found when a picture was painted.
    pub(super) fn painted(&self, picture: &str) -> Option<&Found> {
        self.painted.get(picture)
    }

    /// What was measured under a key.
    pub(super) fn measured(&self, key: &str) -> Option<&HashMap<String, f64>> {
        self.measured.get(key)
    }

    /// Notes that a picture was painted.
    pub(super) fn note_painted(&mut self, picture: &str, found: &Found) -> Result<()> {
        self.painted.insert(picture.to_owned(), found.clone());
        self.append(&Entry::Painted { picture: picture.to_owned(), found: found.clone() })
    }

    /// Notes what was measured.
    pub(super) fn note_measured(&mut self, key: &str, values: &[(&'static str, f64)]) -> Result<()> {
        let texts = values.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
        self.measured.insert(key.to_owned(), values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect());
        self.append(&Entry::Measured { key: key.to_owned(), values: texts })
    }

    fn append(&mut self, entry: &Entry) -> Result<()> {
        let io = |error| Error::io(&self.path, error);
        let mut line = serde_json::to_vec(entry).map_err(|error| io(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).and_then(|()| self.file.sync_data()).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_back_and_a_cut_line_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let found = Found { sha256: "ab".into(), seconds: Some(0.5), ..Found::default() };
        {
            let mut log = Log::open(folder.path()).unwrap();
            log.note_painted("a\n\"b\".png", &found).unwrap();
            log.note_measured("key", &[("ssim", 0.1 + 0.2)]).unwrap();
            assert!(Log::open(folder.path()).unwrap_err().to_string().contains("at work"));
        }
        let mut file = File::options().append(true).open(folder.path().join(NAME)).unwrap();
        file.write_all(b"{\"painted\":{\"pic").unwrap();
        drop(file);
        let mut log = Log::open(folder.path()).unwrap();
        assert_eq!(log.painted("a\n\"b\".png"), Some(&found));
        assert_eq!(log.measured("key").unwrap(), &HashMap::from([("ssim".to_owned(), 0.1 + 0.2)]));
        log.note_painted("c", &found).unwrap();
        drop(log);
        assert_eq!(Log::open(folder.path()).unwrap().painted("c"), Some(&found));
    }
}
