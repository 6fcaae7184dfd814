//! The shared Hugging Face cache on disk, read-only: where it is and what is in it.
//!
//! Layout (the one of `huggingface_hub`, so that a model fetched by any tool is fetched for all):
//! `models--owner--name/{refs/REVISION, snapshots/COMMIT/PATH -> ../../blobs/ETAG}`. Must not write; see [`super::hub`].

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The folder all models are cached in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// A cache in the given folder, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache that every Hugging Face tool uses: `HF_HUB_CACHE`, `HF_HOME/hub`, or `~/.cache/huggingface/hub`.
    ///
    /// # Errors
    /// When none of these is set and there is no home folder.
    pub fn from_env() -> Result<Self> {
        if let Some(root) = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")) {
            return Ok(Self::new(root));
        }
        Ok(Self::new(home()?.join("hub")))
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a repository.
    pub fn repository(&self, repo: &str) -> PathBuf {
        self.root.join(format!("models--{}", repo.replace('/', "--")))
    }

    /// The commit that a branch or tag meant when it was last fetched; a commit means itself.
    pub fn commit(&self, repo: &str, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = std::fs::read_to_string(self.repository(repo).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// The folder of a repository's files at a commit.
    pub fn snapshot(&self, repo: &str, commit: &str) -> PathBuf {
        self.repository(repo).join("snapshots").join(commit)
    }

    /// A file at a commit, if it is there.
    pub fn file(&self, repo: &str, commit: &str, path: &str) -> Option<PathBuf> {
        Some(self.snapshot(repo, commit).join(path)).filter(|file| file.is_file())
    }
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where programs keep what they can make again: `XDG_CACHE_HOME`, else `~/.cache`.
pub(crate) fn caches() -> Option<PathBuf> {
    set("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")))
}

/// Where Hugging Face tools keep what is theirs: `HF_HOME`, else `~/.cache/huggingface`.
pub(crate) fn home() -> Result<PathBuf> {
    if let Some(home) = set("HF_HOME") {
        return Ok(home);
    }
    match caches() {
        Some(caches) => Ok(caches.join("huggingface")),
        None => Err(Error::usage("HF_HOME", "there is no home folder to keep models in")
            .with_hint("set HF_HOME to a folder for downloaded models")),
    }
}

/// Whether a revision is a commit and not a branch or tag.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text is a SHA-256 in lower-case hexadecimal.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
