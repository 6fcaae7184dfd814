//! Where pictures go, and whether they can go there: asked before an hour of painting, not after.

use super::plan::Plan;
use crate::cli::writable;
use impasto::{Error, Result};
use std::path::{Path, PathBuf};

/// Checks that pictures can be written to `output` and that none of them replaces a picture that goes in.
pub(super) fn check(output: &Path, plan: &Plan) -> Result<()> {
    writable::check("--output", output, &writable::PNG)?;
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
