//! The Stable Diffusion that is part of the program, `mini`, and how it becomes files that the rest of the program opens.
//!
//! Its files are in the binary; they are unpacked once, into the user's cache folder, under a name that their hashes decide:
//! another version of the program never meets the files of this one. `weights/mini/README.md` tells what it is. Must not load
//! anything.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache;
use super::verify::{Verdict, hex};
use crate::error::{Error, Result};

/// What it is called on the command line.
pub const NAME: &str = "mini";
/// What it is, in one line.
pub const SUMMARY: &str =
    "Small Stable Diffusion with IP-Adapter and ControlNet, for emoji of 64x64; part of the program";
/// Its terms.
pub const LICENCE: &str = "see weights/mini";

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Every file: its path in the folder, and its bytes.
        const FILES: &[(&str, &[u8])] = &[$(($name, include_bytes!(concat!("../../weights/mini/", $name)))),*];
    };
}

files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "image_encoder/config.json",
    "image_encoder/preprocessor_config.json",
    "image_encoder/model.safetensors",
    "controlnet/config.json",
    "controlnet/diffusion_pytorch_model.safetensors",
    "ip-adapter.safetensors",
];

/// SHA-256 of every file, as `sha256sum` prints them.
const SUMS: &str = include_str!("../../weights/mini/SHA256SUMS");

/// Whether a net's name means the bundled model or a net in it: `mini`, `mini/controlnet`, `mini/ip-adapter.safetensors`.
pub fn is_one(net: &Path) -> bool {
    FILES.iter().any(|(file, _)| Path::new(NAME).join(file).starts_with(net)) && net.starts_with(NAME)
}

/// The bytes of all files.
pub fn bytes() -> u64 {
    FILES.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

/// Where the bundled model, or the net in it that `net` names, lies as files. None for other names. Unpacks it where it is
/// not there yet: whole or not at all, also when several programs do so at once.
///
/// # Errors
/// When there is no place for it or the place cannot be written.
pub fn locate(net: &Path) -> Result<Option<PathBuf>> {
    if !is_one(net) {
        return Ok(None);
    }
    let folder = place()?;
    if !is_whole(&folder) {
        unpack(&folder)?;
    }
    let within = net.strip_prefix(NAME).unwrap_or(Path::new(""));
    Ok(Some(if within.as_os_str().is_empty() { folder } else { folder.join(within) }))
}

/// Where it lies if it was unpacked before.
pub fn unpacked() -> Option<PathBuf> {
    place().ok().filter(|folder| is_whole(folder))
}

/// Hashes the unpacked files, by path; those that are not there are missing.
///
/// # Errors
/// When there is no place for them.
pub fn verify() -> Result<Vec<(String, Verdict)>> {
    let folder = place()?;
    let expected = |file: &str| SUMS.lines().find_map(|line| line.strip_suffix(file)?.split_whitespace().next());
    let verdict = |file: &str| match std::fs::read(folder.join(file)) {
        Err(_) => Verdict::Missing,
        Ok(bytes) => {
            let found = hex(&Sha256::digest(&bytes));
            match expected(file) {
                Some(expected) if expected == found => Verdict::Sound,
                Some(expected) => Verdict::Wrong { expected: expected.to_owned(), found },
                None => Verdict::Unknown { found },
            }
        }
    };
    Ok(FILES.iter().map(|(file, _)| ((*file).to_owned(), verdict(file))).collect())
}

/// The folder it is unpacked into, whether it is there or not.
///
/// # Errors
/// When there is no place for it.
pub fn place() -> Result<PathBuf> {
    let caches = cache::caches().ok_or_else(|| {
        Error::usage("XDG_CACHE_HOME", format!("there is no home folder to unpack the model `{NAME}` into"))
            .with_hint("set XDG_CACHE_HOME to a folder that can be written")
    })?;
    let hash = hex(&Sha256::digest(SUMS.as_bytes()));
    Ok(caches.join("impasto").join(format!("{NAME}-{}", hash.get(..16).unwrap_or(&hash))))
}

fn is_whole(folder: &Path) -> bool {
    FILES.iter().all(|(file, bytes)| {
        std::fs::metadata(folder.join(file)).is_ok_and(|found| found.is_file() && found.len() == bytes.len() as u64)
    })
}

fn unpack(folder: &Path) -> Result<()> {
    let hint = "set XDG_CACHE_HOME to a folder that can be written";
    let failed = |path: &Path, error: std::io::Error| Error::file(path, error.to_string()).with_hint(hint);
    let above = folder.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(above).map_err(|error| failed(above, error))?;
    let beside = tempfile::Builder::new().prefix(".mini-").tempdir_in(above).map_err(|error| failed(above, error))?;
    for (file, bytes) in FILES {
        let path = beside.path().join(file);
        let parent = path.parent().unwrap_or(beside.path());
        std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        std::fs::write(&path, bytes).map_err(|error| failed(&path, error))?;
    }
    // What is in the way was damaged, or another program was first.
    if folder.exists() && !is_whole(folder) {
        let aside = tempfile::Builder::new().prefix(".old-").tempdir_in(above).map_err(|error| failed(above, error))?;
        std::fs::rename(folder, aside.path().join(NAME)).map_err(|error| failed(folder, error))?;
    }
    match std::fs::rename(beside.path(), folder) {
        Ok(()) => Ok(()),
        Err(_) if is_whole(folder) => Ok(()),
        Err(error) => Err(failed(folder, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_the_files() {
        for (file, bytes) in FILES {
            let line = format!("{}  {file}", hex(&Sha256::digest(bytes)));
            assert!(SUMS.lines().any(|known| known == line), "weights/mini/SHA256SUMS lacks {line}");
        }
        assert_eq!(SUMS.lines().count(), FILES.len());
        assert!(bytes() <= 40_000_000, "{}", bytes());
    }

    #[test]
    fn it_and_the_nets_in_it_have_names() {
        for name in ["mini", "mini/controlnet", "mini/ip-adapter.safetensors", "mini/image_encoder"] {
            assert!(is_one(Path::new(name)), "{name}");
        }
        for name in ["", "min", "mini2", "mini/other", "mini/controlnet/more", "controlnet", "/mini", "./mini"] {
            assert!(!is_one(Path::new(name)), "{name}");
        }
    }
}
