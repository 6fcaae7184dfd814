//! Fetching models from the Hugging Face Hub into the shared cache.
//!
//! Paths in the cache are hf-hub's. The transfer is ours, because hf-hub's neither checks hashes, nor can be stopped, nor
//! notices when a server answers a resumed request from the start; see `weights/README.md`.
//! Must not print: sizes are in the [`Plan`], progress goes to the callback.

mod http;
mod transfer;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{CacheRepo, Repo, RepoType};

use self::http::{Broken, Client, Metadata};
use self::transfer::{Wanted, wait};
use super::cache::{self, Cache};
use super::manifest::{Manifest, ManifestFile};
use super::record::{Record, Verified};
use super::verify;
use crate::error::{Error, Result};
use crate::progress::{OnProgress, Progress, Stage};

/// Where to fetch from and to.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    cache: Cache,
    offline: bool,
    pause: Duration,
}

/// What a pull will do.
#[derive(Debug, Clone)]
pub struct Plan {
    manifest: Manifest,
    commit: String,
    files: Vec<Planned>,
}

#[derive(Debug, Clone)]
struct Planned {
    file: ManifestFile,
    metadata: Option<Metadata>,
    /// The SHA-256 it must have, where known.
    expected: Option<String>,
    /// Bytes of it that are here already.
    here: u64,
}

impl Plan {
    /// The commit the files are taken from.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// How many files are to be fetched.
    pub fn files(&self) -> usize {
        self.files.iter().filter(|planned| planned.rest() > 0).count()
    }

    /// How many bytes are to be fetched, those of earlier tries not counted.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(Planned::rest).fold(0, u64::saturating_add)
    }

    /// How many bytes of unfinished files are here from earlier tries.
    pub fn resumed(&self) -> u64 {
        self.files.iter().filter(|planned| planned.rest() > 0).map(|planned| planned.here).fold(0, u64::saturating_add)
    }
}

impl Planned {
    fn rest(&self) -> u64 {
        self.metadata.as_ref().map_or(0, |metadata| metadata.bytes.saturating_sub(self.here))
    }
}

impl Hub {
    /// A Hub at an address, with a cache folder.
    pub fn new(endpoint: impl Into<String>, cache: Cache) -> Self {
        Self { endpoint: endpoint.into(), token: None, cache, offline: false, pause: Duration::from_secs(1) }
    }

    /// The Hub the environment names: `HF_ENDPOINT`, `HF_TOKEN` (or the token that `hf auth login` left), `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// When there is no place for a cache.
    pub fn from_env() -> Result<Self> {
        let set =
            |name: &str| std::env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let yes = |name: &str| {
            set(name).is_some_and(|text| ["1", "on", "yes", "true"].contains(&text.to_lowercase().as_str()))
        };
        let mut hub =
            Self::new(set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()), Cache::from_env()?);
        hub.offline = yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE");
        hub.token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
        if hub.token.is_none() && !yes("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            let path =
                set("HF_TOKEN_PATH").map_or_else(|| Ok(cache::home()?.join("token")), |path| Ok(PathBuf::from(path)));
            let text = path.and_then(|path: PathBuf| std::fs::read_to_string(&path).map_err(|e| Error::io(path, e)));
            hub.token = text.ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        }
        Ok(hub)
    }

    /// The same Hub with a token.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Whether it is never asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The same Hub, never asked: only what is in the cache.
    #[must_use]
    pub fn offline(mut self) -> Self {
        self.offline = true;
        self
    }

    /// The same Hub with another pause before the second attempt at a broken transfer; it doubles with every further one.
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// The cache it fetches into.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Finds out what has to be fetched. Without `update`, a model that was fetched before stays at its commit.
    ///
    /// # Errors
    /// When the Hub cannot be reached, refuses, or offers other files than the manifest and earlier pulls know.
    pub fn plan(&self, manifest: &Manifest, update: bool) -> Result<Plan> {
        let record = Record::read(&self.cache)?;
        let mut commit = if cache::is_commit(&manifest.revision) {
            Some(manifest.revision.clone())
        } else if update && !self.offline {
            None
        } else {
            record.commit(&manifest.repo, &manifest.revision)
        };
        // Without a network, what another tool fetched is as good.
        if self.offline {
            commit = commit.or_else(|| self.cache.commit(&manifest.repo, &manifest.revision));
        }
        let client = Client::new(&self.endpoint, self.token.clone())?;
        let mut files = Vec::new();
        for file in &manifest.files {
            let here = commit.as_ref().and_then(|commit| self.cache.file(&manifest.repo, commit, &file.path));
            let known = commit.as_ref().is_some_and(|commit| {
                cache::is_commit(&manifest.revision) || record.file(&manifest.repo, commit, &file.path).is_some()
            });
            if here.is_some() && (known || self.offline) {
                files.push(Planned { file: file.clone(), metadata: None, expected: None, here: 0 });
                continue;
            }
            if self.offline {
                return Err(Error::remote(
                    &manifest.name,
                    format!("{} is not in the cache, and HF_HUB_OFFLINE is set", file.path),
                )
                .with_hint(format!(
                    "unset HF_HUB_OFFLINE and run `impasto weights pull {}`, or copy the model into {}",
                    manifest.name,
                    self.cache.root().display()
                )));
            }
            let revision = commit.as_deref().unwrap_or(&manifest.revision);
            let metadata =
                self.persist(|| client.metadata(&manifest.repo, revision, &file.path), &mut crate::progress::silent)?;
            // All files come from the commit of the first.
            let commit = commit.get_or_insert_with(|| metadata.commit.clone());
            self.agrees(manifest, file, &metadata, &record, commit)?;
            let blob = self.layout(manifest).blob_path(&metadata.etag);
            let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
            let here = if length(&blob) == metadata.bytes { metadata.bytes } else { length(&incomplete(&blob)) };
            let recorded = record.file(&manifest.repo, commit, &file.path).map(|verified| verified.sha256.clone());
            let named = Some(metadata.etag.clone()).filter(|etag| cache::is_sha256(etag));
            let expected = file.sha256.clone().or(recorded).or(named);
            files.push(Planned { file: file.clone(), metadata: Some(metadata), expected, here });
        }
        let Some(commit) = commit else {
            return Err(Error::remote(&manifest.name, "the manifest names no files"));
        };
        Ok(Plan { manifest: manifest.clone(), commit, files })
    }

    /// Refuses a file that is not the one known, before a byte of it is fetched.
    fn agrees(
        &self,
        manifest: &Manifest,
        file: &ManifestFile,
        metadata: &Metadata,
        record: &Record,
        commit: &str,
    ) -> Result<()> {
        let recorded = record.file(&manifest.repo, commit, &file.path);
        let hash = file.sha256.as_deref().or(recorded.map(|verified| verified.sha256.as_str()));
        let bytes = file.bytes.or(recorded.map(|verified| verified.bytes));
        let other_hash = hash.is_some_and(|hash| cache::is_sha256(&metadata.etag) && hash != metadata.etag);
        if other_hash || bytes.is_some_and(|bytes| bytes != metadata.bytes) {
            return Err(Error::remote(
                format!("{} {}", manifest.repo, file.path),
                format!(
                    "the server offers another file ({} bytes, {}) than the one known ({})",
                    metadata.bytes,
                    metadata.etag,
                    hash.unwrap_or("by size")
                ),
            )
            .with_hint("nothing was fetched; if the authors replaced the file on purpose, pull with --update"));
        }
        Ok(())
    }

    /// Does what the plan says and gives the folder or file to open.
    ///
    /// Progress counts bytes per file. When the callback fails, the transfer stops at once; what is here already is kept
    /// and a later pull goes on from there.
    ///
    /// # Errors
    /// When a transfer breaks for good, a hash is wrong (the bad file is removed), or the disk is full.
    pub fn fetch(&self, plan: &Plan, on_progress: &mut OnProgress<'_>) -> Result<PathBuf> {
        let manifest = &plan.manifest;
        if plan.files.iter().any(|planned| planned.metadata.is_some()) {
            let client = Client::new(&self.endpoint, self.token.clone())?;
            let mut verified = Vec::new();
            for planned in &plan.files {
                let Some(metadata) = &planned.metadata else { continue };
                let sha256 = self.fetch_file(&client, plan, planned, metadata, on_progress)?;
                verified.push(Verified {
                    repo: manifest.repo.clone(),
                    revision: manifest.revision.clone(),
                    commit: plan.commit.clone(),
                    path: planned.file.path.clone(),
                    sha256,
                    bytes: metadata.bytes,
                });
            }
            // Only now: an update that is stopped half-way must not take the place of the whole model before it.
            Record::add(&self.cache, &verified)?;
            if !cache::is_commit(&manifest.revision) {
                let refs = self.cache.repository(&manifest.repo).join("refs");
                self.layout(manifest).create_ref(&plan.commit).map_err(|e| Error::io(refs, e))?;
            }
        }
        manifest.require(&self.cache)
    }

    /// Plans and fetches in one go.
    ///
    /// # Errors
    /// Those of [`Self::plan`] and [`Self::fetch`].
    pub fn pull(&self, manifest: &Manifest, on_progress: &mut OnProgress<'_>) -> Result<PathBuf> {
        self.fetch(&self.plan(manifest, false)?, on_progress)
    }

    /// Where hf-hub puts things.
    fn layout(&self, manifest: &Manifest) -> CacheRepo {
        let repo = Repo::with_revision(manifest.repo.clone(), RepoType::Model, manifest.revision.clone());
        hf_hub::Cache::new(self.cache.root().to_path_buf()).repo(repo)
    }

    fn fetch_file(
        &self,
        client: &Client,
        plan: &Plan,
        planned: &Planned,
        metadata: &Metadata,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<String> {
        let repo = &plan.manifest.repo;
        let layout = self.layout(&plan.manifest);
        let blob = layout.blob_path(&metadata.etag);
        if let Some(blobs) = blob.parent() {
            std::fs::create_dir_all(blobs).map_err(|e| Error::io(blobs, e))?;
        }
        let _guard = self.guard(repo, &metadata.etag)?;

        let link = layout.pointer_path(&plan.commit).join(&planned.file.path);
        let wrong = |hash: &str| planned.expected.as_deref().filter(|&expected| expected != hash);
        if blob.metadata().is_ok_and(|found| found.is_file() && found.len() == metadata.bytes) {
            let hash = verify::sha256(&blob, &planned.file.path, on_progress)?;
            if wrong(&hash).is_none() {
                place(&blob, &link)?;
                return Ok(hash);
            }
        }
        let incomplete = incomplete(&blob);
        let (commit, path) = (plan.commit.as_str(), planned.file.path.as_str());
        let wanted = Wanted { repo, commit, path, bytes: metadata.bytes, pause: self.pause };
        let hash = wanted.fetch(client, &incomplete, on_progress)?;
        if let Some(expected) = wrong(&hash) {
            std::fs::remove_file(&incomplete).map_err(|e| Error::io(&incomplete, e))?;
            return Err(Error::remote(
                format!("{repo} {}", planned.file.path),
                format!("the file that arrived has the SHA-256 {hash}, expected {expected}; it was removed"),
            )
            .with_hint("pull again; if it happens twice, something between here and the server changes files"));
        }
        std::fs::rename(&incomplete, &blob).map_err(|e| Error::io(&blob, e))?;
        place(&blob, &link)?;
        Ok(hash)
    }

    /// Tries again for as long as it may help.
    fn persist<T>(
        &self,
        mut attempt: impl FnMut() -> std::result::Result<T, Broken>,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Broken::Again(_)) if failures < 2 => {
                    let nothing = Progress { stage: Stage::Download, done: 0, total: 0, label: String::new() };
                    wait(self.pause.saturating_mul(1 << failures), &mut || on_progress(&nothing))?;
                    failures += 1;
                }
                Err(broken) => return Err(broken.into_error()),
            }
        }
    }

    /// Keeps other processes from fetching the same file, by the lock that huggingface_hub uses, too.
    fn guard(&self, repo: &str, etag: &str) -> Result<File> {
        let folder = self.cache.root().join(".locks").join(format!("models--{}", repo.replace('/', "--")));
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let path = folder.join(format!("{etag}.lock"));
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Error::file(path, "another program is fetching the same file")
                    .with_hint("wait until it is done and pull again"))
            }
            Err(std::fs::TryLockError::Error(error)) => Err(Error::io(path, error)),
        }
    }
}

/// Where a blob grows, under the name huggingface_hub gives it, which goes on from there as well.
fn incomplete(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(".incomplete");
    PathBuf::from(name)
}

/// Makes a blob appear under its name: a relative link, or a copy where there are no links.
fn place(blob: &Path, link: &Path) -> Result<()> {
    let Some(folder) = link.parent() else {
        return Err(Error::file(link, "is no place for a file"));
    };
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(link).map_err(|e| Error::io(link, e))?;
    }
    // snapshots/COMMIT/a/b -> ../../../blobs/ETAG: one step up per folder below the repository.
    let below = blob.parent().and_then(Path::parent).and_then(|repository| folder.strip_prefix(repository).ok());
    let (Some(below), Some(name)) = (below, blob.file_name()) else {
        return Err(Error::file(link, "lies outside its repository"));
    };
    let mut target: PathBuf = below.components().map(|_| "..").collect();
    target.push("blobs");
    target.push(name);
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(&target, link);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(&target, link).or_else(|_| std::fs::copy(blob, link).map(drop));
    #[cfg(not(any(unix, windows)))]
    let linked = std::fs::copy(blob, link).map(drop);
    linked.map_err(|e| Error::io(link, e))
}
