//! SHA-256 of cached files, against the manifest, the record of the first pull, or the name the cache gave them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::{self, Cache};
use super::manifest::{Manifest, ManifestFile};
use super::record::Record;
use crate::error::{Error, Result};
use crate::progress::{OnProgress, Progress, Stage};

/// What checking one file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The hash is the expected one.
    Sound,
    /// The hash differs.
    Wrong {
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// There is no hash to hold it against; this is what it is.
    Unknown {
        /// What it is.
        found: String,
    },
    /// The file is not in the cache.
    Missing,
}

/// Hashes a file.
///
/// # Errors
/// When it cannot be read, or the receiver of progress stops it.
pub fn sha256(path: &Path, label: &str, on_progress: &mut OnProgress<'_>) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let total = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let mut hasher = Sha256::new();
    feed(&mut hasher, &mut file, path, total, label, on_progress)?;
    Ok(hex(&hasher.finalize()))
}

/// Feeds a file to a hash, reporting as it goes.
pub(crate) fn feed(
    hasher: &mut Sha256,
    file: &mut File,
    path: &Path,
    total: u64,
    label: &str,
    on_progress: &mut OnProgress<'_>,
) -> Result<()> {
    let mut buffer = vec![0u8; 1 << 20];
    let mut done = 0;
    loop {
        on_progress(&Progress { stage: Stage::Verify, done, total, label: label.to_owned() })?;
        let count = file.read(&mut buffer).map_err(|e| Error::io(path, e))?;
        if count == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..count]);
        done += count as u64;
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash a cached file should have, and the file behind the cache's link.
pub(crate) fn expected(
    manifest: &Manifest,
    file: &ManifestFile,
    commit: &str,
    record: &Record,
    local: &Path,
) -> (Option<String>, PathBuf) {
    let blob = local.canonicalize().unwrap_or_else(|_| local.to_path_buf());
    // The cache names large files by their SHA-256, whichever tool fetched them.
    let name = blob.file_name().map(|name| name.to_string_lossy().into_owned()).filter(|name| cache::is_sha256(name));
    let recorded = || record.file(&manifest.repo, commit, &file.path).map(|verified| verified.sha256.clone());
    (file.sha256.clone().or_else(recorded).or(name), blob)
}

impl Manifest {
    /// Hashes every file of the model in the cache.
    ///
    /// # Errors
    /// When a file cannot be read, or the receiver of progress stops it.
    pub fn verify(&self, cache: &Cache, on_progress: &mut OnProgress<'_>) -> Result<Vec<(String, Verdict)>> {
        let record = Record::read(cache)?;
        let commit = self.cached_commit(cache).unwrap_or_default();
        let mut verdicts = Vec::new();
        for file in &self.files {
            let verdict = match cache.file(&self.repo, &commit, &file.path) {
                None => Verdict::Missing,
                Some(local) => {
                    let (expected, blob) = expected(self, file, &commit, &record, &local);
                    let found = sha256(&blob, &file.path, on_progress)?;
                    match expected {
                        Some(expected) if expected == found => Verdict::Sound,
                        Some(expected) => Verdict::Wrong { expected, found },
                        None => Verdict::Unknown { found },
                    }
                }
            };
            verdicts.push((file.path.clone(), verdict));
        }
        Ok(verdicts)
    }
}
