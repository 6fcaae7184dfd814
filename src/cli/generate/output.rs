//! Where pictures go, and whether they can go there: asked before an hour of painting, not after.

use super::plan::Plan;
use impasto::{Error, Result};
use std::path::{Path, PathBuf};

/// Checks that pictures can be written to `output` and that none of them replaces a picture that goes in.
pub(super) fn check(output: &Path, plan: &Plan) -> Result<()> {
    writable("--output", output)?;
    for seed in plan.seeds() {
        let path = name(output, seed, plan.count);
        let Ok(there) = path.metadata() else { continue };
        if there.is_file() && there.permissions().readonly() {
            return Err(Error::usage("--output", format!("{} is there already and is read-only", path.display())));
        }
        let same = |input: &PathBuf| {
            input.canonicalize().is_ok_and(|input| path.canonicalize().is_ok_and(|path| path == input))
        };
        if there.is_file() && plan.pictures().any(same) {
            return Err(Error::usage("--output", format!("{} is also a picture that goes in", path.display())));
        }
    }
    Ok(())
}

/// Checks that a PNG can be written to a path.
pub(super) fn writable(flag: &str, path: &Path) -> Result<()> {
    let wrong = |reason: &str| Error::usage(flag, format!("{} {reason}", path.display()));
    let there = std::fs::metadata(path).ok();
    if there.as_ref().is_some_and(std::fs::Metadata::is_dir) {
        return Err(wrong("is a folder").with_hint("name a file in it"));
    }
    // A device or a pipe has no name that could say what it holds.
    if there.is_some_and(|there| !there.is_file()) {
        return Ok(());
    }
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
        return Err(
            wrong("is not the name of a PNG").with_hint("pictures are written as .png, with their recipe inside")
        );
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(wrong("is in a folder that does not exist").with_hint("create the folder first"));
    }
    tempfile::Builder::new().prefix(".impasto").tempfile_in(folder).map_err(|error| Error::io(folder, error))?;
    Ok(())
}

/// The file of one picture: the name as given for a single one, `NAME-SEED.png` for several.
pub(super) fn name(output: &Path, seed: u64, count: u32) -> PathBuf {
    if count == 1 {
        return output.to_path_buf();
    }
    let mut name = output.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-{seed}."));
    name.push(output.extension().unwrap_or("png".as_ref()));
    output.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_pictures_are_told_apart_by_their_seeds() {
        assert_eq!(name(Path::new("a/b.png"), 7, 1), Path::new("a/b.png"));
        assert_eq!(name(Path::new("a/b.v2.PNG"), 7, 2), Path::new("a/b.v2-7.PNG"));
    }
}
