//! What was fetched and checked: `impasto-verified.toml` beside the cached models.
//!
//! A manifest that names a branch cannot say which commit or hash is right. The first pull writes down what it got, and
//! every later pull and check holds against that, so the same name means the same weights until the user asks otherwise.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cache::{self, Cache};
use crate::error::{Error, Result};

/// The longest record worth reading.
const MAX_RECORD: u64 = 16 << 20;

/// A file that was fetched and hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) repo: String,
    pub(crate) revision: String,
    pub(crate) commit: String,
    pub(crate) path: String,
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

/// Everything fetched into one cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(default, rename = "file")]
    files: Vec<Verified>,
}

fn place(cache: &Cache) -> PathBuf {
    cache.root().join("impasto-verified.toml")
}

impl Record {
    /// Reads the record; an empty one if there is none yet.
    pub(crate) fn read(cache: &Cache) -> Result<Self> {
        let path = place(cache);
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io(path, error)),
        };
        if !metadata.is_file() || metadata.len() > MAX_RECORD {
            return Err(Error::file(path, "is not a record of fetched weights"));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let record: Self = toml::from_str(&text).map_err(|e| {
            Error::file(&path, format!("is damaged: {}", e.message()))
                .with_hint("delete it; the next pull writes it anew and checks every file")
        })?;
        let sound = |file: &Verified| cache::is_commit(&file.commit) && cache::is_sha256(&file.sha256);
        if !record.files.iter().all(sound) {
            return Err(Error::file(&path, "is damaged: a commit or hash in it is not one")
                .with_hint("delete it; the next pull writes it anew and checks every file"));
        }
        Ok(record)
    }

    /// The commit a branch was first fetched at.
    pub(crate) fn commit(&self, repo: &str, revision: &str) -> Option<String> {
        let file = self.files.iter().rev().find(|file| file.repo == repo && file.revision == revision);
        file.map(|file| file.commit.clone())
    }

    /// What is known of a file at a commit.
    pub(crate) fn file(&self, repo: &str, commit: &str, path: &str) -> Option<&Verified> {
        self.files.iter().rev().find(|file| file.repo == repo && file.commit == commit && file.path == path)
    }

    /// Adds files and writes the record, atomically and one process at a time.
    #[cfg(feature = "hub")]
    pub(crate) fn add(cache: &Cache, new: &[Verified]) -> Result<()> {
        use std::io::Write;

        let path = place(cache);
        std::fs::create_dir_all(cache.root()).map_err(|e| Error::io(cache.root(), e))?;
        let guard = path.with_extension("lock");
        let file =
            std::fs::OpenOptions::new().create(true).append(true).open(&guard).map_err(|e| Error::io(&guard, e))?;
        file.lock().map_err(|e| Error::io(&guard, e))?;

        let mut record = Self::read(cache)?;
        for verified in new {
            let same = |old: &Verified| {
                old.repo == verified.repo && old.revision == verified.revision && old.path == verified.path
            };
            record.files.retain(|old| !same(old));
            record.files.push(verified.clone());
        }
        let text = toml::to_string(&record).map_err(|e| Error::file(&path, e.to_string()))?;
        let mut temporary = tempfile::NamedTempFile::new_in(cache.root()).map_err(|e| Error::io(cache.root(), e))?;
        temporary.write_all(text.as_bytes()).map_err(|e| Error::io(&path, e))?;
        temporary.as_file().sync_all().map_err(|e| Error::io(&path, e))?;
        temporary.persist(&path).map_err(|e| Error::io(&path, e.error))?;
        Ok(())
    }
}
