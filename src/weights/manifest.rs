//! What a model consists of and where it comes from: the tables in `weights/*.toml`, and a user's own.
//!
//! Must not fetch; see [`super::hub`]. The format is told in `weights/README.md`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::{self, Cache};
use super::record::Record;
use crate::error::{Error, Result};

/// The longest manifest worth reading.
const MAX_MANIFEST: u64 = 1 << 20;

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        /// The manifests in the program, by name.
        const EMBEDDED: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../weights/", $name, ".toml")))),*];
    };
}

embedded![
    "sd15",
    "sd15-fp16",
    "clip-vit-h",
    "clip-vit-bigg",
    "ip-adapter-sd15",
    "ip-adapter-light-sd15",
    "ip-adapter-plus-sd15",
    "ip-adapter-plus-face-sd15",
    "ip-adapter-full-face-sd15",
    "ip-adapter-vit-g-sd15",
    "controlnet-canny-sd15",
    "controlnet-depth-sd15",
    "controlnet-lineart-sd15",
    "controlnet-openpose-sd15",
    "controlnet-scribble-sd15",
    "controlnet-softedge-sd15",
    "controlnet-tile-sd15",
    "depth-anything-v2-small",
    "lcm-lora-sd15",
    "vgg19",
    "vgg16",
];

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A whole Stable Diffusion model.
    Model,
    /// A ControlNet.
    Controlnet,
    /// An IP-Adapter.
    IpAdapter,
    /// A LoRA.
    Lora,
    /// A CLIP image encoder.
    ImageEncoder,
    /// A net that turns pictures into depth maps.
    Depth,
    /// A net whose features pictures are compared by.
    Perceptual,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Its path in the repository.
    pub path: String,
    /// Its SHA-256, where known.
    pub sha256: Option<String>,
    /// Its size, where known.
    pub bytes: Option<u64>,
}

/// A model: its repository, files and terms.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What it is called on the command line; the file's name without ending.
    #[serde(skip)]
    pub name: String,
    /// What it is, in one line.
    pub summary: String,
    /// What it is for.
    pub kind: Kind,
    /// `owner/name` on the Hub.
    pub repo: String,
    /// A commit, or a branch where no commit is known: then the first pull records the commit it found.
    pub revision: String,
    /// The licence its authors state.
    pub licence: String,
    /// The size in words, marked as approximate, where the bytes are not known.
    pub about: Option<String>,
    /// The file or folder in the repository that programs are given; the repository's root if left out.
    pub entry: Option<String>,
    /// Which of several precisions in the folder is meant, as in `diffusion_pytorch_model.fp16.safetensors`.
    pub variant: Option<String>,
    /// All files it needs.
    #[serde(rename = "file")]
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    /// All manifests in the program.
    ///
    /// # Errors
    /// When one is malformed, which a test excludes.
    pub fn all() -> Result<Vec<Self>> {
        EMBEDDED.iter().map(|(name, text)| Self::parse(name, text, Path::new(name))).collect()
    }

    /// The manifest of that name, or in that `.toml` file.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub fn find(name: &str) -> Result<Self> {
        if let Some((name, text)) = EMBEDDED.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text, Path::new(name));
        }
        let path = Path::new(name);
        if path.extension().is_some_and(|extension| extension == "toml") {
            return Self::read(path);
        }
        let near =
            EMBEDDED.iter().map(|(known, _)| *known).filter(|known| known.contains(name) || name.contains(known));
        let hint = match near.collect::<Vec<_>>().as_slice() {
            [] => "`impasto weights list` shows the names; a manifest of your own is given as a .toml file".to_owned(),
            near => format!("did you mean {}?", near.join(", ")),
        };
        Err(Error::usage(name, "no weights of that name").with_hint(hint))
    }

    /// Reads a manifest of the user's own.
    ///
    /// # Errors
    /// When it cannot be read or is malformed.
    pub fn read(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !metadata.is_file() || metadata.len() > MAX_MANIFEST {
            return Err(Error::file(path, "is not a manifest"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Self::parse(&name, &text, path)
    }

    fn parse(name: &str, text: &str, path: &Path) -> Result<Self> {
        let bad = |reason: String| {
            Error::file(path, format!("not a manifest of weights: {reason}"))
                .with_hint("weights/README.md tells the format")
        };
        let mut manifest: Self = toml::from_str(text).map_err(|e| bad(e.message().to_owned()))?;
        name.clone_into(&mut manifest.name);
        let words: Vec<&str> = manifest.repo.split('/').collect();
        if words.len() != 2 || !words.iter().all(|word| plain(word)) {
            return Err(bad(format!("repo = `{}` is not owner/name", manifest.repo)));
        }
        if !manifest.revision.split('/').all(plain) {
            return Err(bad(format!("revision = `{}` is no branch and no commit", manifest.revision)));
        }
        if manifest.files.is_empty() {
            return Err(bad("it names no files".to_owned()));
        }
        for file in &manifest.files {
            // The path becomes a place on this disk.
            if !file.path.split('/').all(plain) {
                return Err(bad(format!("path = `{}` is not a path inside the repository", file.path)));
            }
            if file.sha256.as_deref().is_some_and(|hash| !cache::is_sha256(hash)) {
                return Err(bad(format!("sha256 of {} is not 64 lower-case hexadecimal digits", file.path)));
            }
        }
        if let Some(entry) = &manifest.entry {
            let inside = |file: &ManifestFile| file.path == *entry || file.path.starts_with(&format!("{entry}/"));
            if !manifest.files.iter().any(inside) {
                return Err(bad(format!("entry = `{entry}` is none of its files and no folder of them")));
            }
        }
        Ok(manifest)
    }

    /// The bytes of all files, where the manifest knows them.
    pub fn bytes(&self) -> Option<u64> {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Where the model lies in the cache: the folder or file to open. None if a file of it is missing.
    pub fn locate(&self, cache: &Cache) -> Option<PathBuf> {
        let commit = self.cached_commit(cache)?;
        let complete = self.files.iter().all(|file| cache.file(&self.repo, &commit, &file.path).is_some());
        let snapshot = cache.snapshot(&self.repo, &commit);
        complete.then(|| match &self.entry {
            Some(entry) => snapshot.join(entry),
            None => snapshot,
        })
    }

    /// Like [`Self::locate`], with an error that says how to get what is missing.
    ///
    /// # Errors
    /// When a file is missing.
    pub fn require(&self, cache: &Cache) -> Result<PathBuf> {
        self.locate(cache).ok_or_else(|| {
            Error::remote(&self.name, format!("is not in the cache ({})", cache.root().display()))
                .with_hint(format!("fetch it with `impasto weights pull {}`", self.name))
        })
    }

    /// The commit whose files count: the manifest's, the one a pull recorded, or whatever another tool fetched last.
    pub(crate) fn cached_commit(&self, cache: &Cache) -> Option<String> {
        if cache::is_commit(&self.revision) {
            return Some(self.revision.clone());
        }
        let recorded = Record::read(cache).ok().and_then(|record| record.commit(&self.repo, &self.revision));
        recorded.or_else(|| cache.commit(&self.repo, &self.revision))
    }
}

/// One part of a path or name that stays what it is on every file system.
fn plain(word: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+' | b' ');
    !word.is_empty() && word.len() < 200 && word != "." && word != ".." && word.bytes().all(known)
}
