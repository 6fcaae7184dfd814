//! Whether a picture can be written where the user wants it: asked before an hour of painting, not after.

use impasto::{Error, Result};
use std::path::Path;

/// What a picture's name may end in, and what to tell who wrote something else.
pub(crate) struct Endings {
    /// Without their dots.
    pub(crate) known: &'static [&'static str],
    /// What such a file is called.
    pub(crate) kind: &'static str,
    /// The next step for who wrote another ending.
    pub(crate) hint: &'static str,
}

/// Pictures that carry their recipe.
pub(crate) const PNG: Endings =
    Endings { known: &["png"], kind: "a PNG", hint: "pictures are written as .png, with their recipe inside" };

/// Every kind of picture that is written.
pub(crate) const ANY: Endings = Endings {
    known: &["png", "jpg", "jpeg"],
    kind: "a PNG or JPEG",
    hint: "pictures are written as .png or .jpg, with their recipe inside",
};

/// Checks that a picture can be written to a path.
pub(crate) fn check(flag: &str, path: &Path, endings: &Endings) -> Result<()> {
    let wrong = |reason: &str| Error::usage(flag, format!("{} {reason}", path.display()));
    let there = std::fs::metadata(path).ok();
    if there.as_ref().is_some_and(std::fs::Metadata::is_dir) {
        return Err(wrong("is a folder").with_hint("name a file in it"));
    }
    // A device or a pipe has no name that could say what it holds.
    if there.is_some_and(|there| !there.is_file()) {
        return Ok(());
    }
    if !has_ending(path, endings) {
        return Err(wrong(&format!("is not the name of {}", endings.kind)).with_hint(endings.hint));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(wrong("is in a folder that does not exist").with_hint("create the folder first"));
    }
    takes_files(folder)
}

/// Checks that files can be made in a folder.
pub(crate) fn takes_files(folder: &Path) -> Result<()> {
    let made = tempfile::Builder::new().prefix(".impasto").tempfile_in(folder);
    made.map(drop).map_err(|error| Error::io(folder, error))
}

/// Whether a path ends in one of `endings`.
pub(crate) fn has_ending(path: &Path, endings: &Endings) -> bool {
    path.extension().is_some_and(|extension| endings.known.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}
