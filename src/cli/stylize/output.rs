//! Where the paintings go: a file for one photo, a folder for several. Found out, and refused, before anything is painted.

use super::contents::Contents;
use crate::cli::writable;
use impasto::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// What pictures are written as in a folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Without loss
    #[default]
    Png,
    /// Smaller
    Jpg,
}

/// A photo and the painting of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// The photo.
    pub(super) photo: PathBuf,
    /// The painting's file.
    pub(super) output: PathBuf,
}

/// Where every painting goes, and the folder that has to be made for them.
pub(super) fn plan(
    output: &Path,
    format: Option<Format>,
    contents: &Contents,
    inputs: &[PathBuf],
) -> Result<(Vec<Job>, Option<PathBuf>)> {
    let text = output.as_os_str().as_encoded_bytes();
    let as_folder = output.is_dir() || text.ends_with(b"/") || text.ends_with(std::path::MAIN_SEPARATOR_STR.as_bytes());
    let (jobs, made) = if contents.single && !as_folder {
        writable::check("--output", output, &writable::ANY)?;
        if format.is_some() {
            return Err(Error::usage("--format", "is for folders; the ending of --output says what one picture is"));
        }
        let job = |photo: &PathBuf| Job { photo: photo.clone(), output: output.to_path_buf() };
        (contents.photos.iter().map(job).collect(), None)
    } else {
        let made = check_folder(output, contents)?;
        (names(output, format.unwrap_or_default(), &contents.photos)?, made)
    };
    let real = |path: &PathBuf| path.canonicalize().ok();
    let inputs: HashSet<_> = inputs.iter().chain(&contents.photos).filter_map(real).collect();
    for Job { output, .. } in &jobs {
        let Ok(there) = output.metadata() else { continue };
        let wrong = |reason: &str| Error::usage("--output", format!("{} {reason}", output.display()));
        if there.is_dir() {
            return Err(wrong("is a folder"));
        }
        if there.is_file() && real(output).is_some_and(|output| inputs.contains(&output)) {
            return Err(wrong("is also a picture that goes in").with_hint("name another file or folder"));
        }
        if there.is_file() && there.permissions().readonly() {
            return Err(wrong("is there already and is read-only"));
        }
    }
    Ok((jobs, made))
}

// The folder to make, if it is not there.
fn check_folder(output: &Path, contents: &Contents) -> Result<Option<PathBuf>> {
    let wrong = |reason: &str| Error::usage("--output", format!("{} {reason}", output.display()));
    if output.is_dir() {
        let same =
            |folder: &PathBuf| folder.canonicalize().ok().is_some_and(|it| output.canonicalize().ok() == Some(it));
        if contents.folders.iter().any(same) {
            return Err(wrong("is the folder of the photos").with_hint("name another folder: paintings are no photos"));
        }
        writable::takes_files(output)?;
        return Ok(None);
    }
    if output.exists() || writable::has_ending(output, &writable::ANY) {
        return Err(
            wrong("is not a folder").with_hint("several photos become several pictures; name a folder for them")
        );
    }
    match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            Err(wrong("is in a folder that does not exist").with_hint("create the folder first"))
        }
        parent => {
            writable::takes_files(parent.filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
            Ok(Some(output.to_path_buf()))
        }
    }
}

// A painting has its photo's name. `a.jpg` and `a.png`, which would both be `a.png`, keep their endings: `a.jpg.png`.
fn names(folder: &Path, format: Format, photos: &[PathBuf]) -> Result<Vec<Job>> {
    // Some systems do not tell upper case from lower.
    let stem = |photo: &PathBuf| photo.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let mut stems = BTreeMap::new();
    for photo in photos {
        *stems.entry(stem(photo)).or_insert(0) += 1;
    }
    let ending = match format {
        Format::Png => ".png",
        Format::Jpg => ".jpg",
    };
    let mut taken = BTreeMap::new();
    let mut jobs = Vec::new();
    for photo in photos {
        let alone = stems.get(&stem(photo)) == Some(&1);
        let mut name = if alone { photo.file_stem() } else { photo.file_name() }.unwrap_or_default().to_os_string();
        name.push(ending);
        if let Some(other) = taken.insert(name.to_string_lossy().to_lowercase(), photo) {
            let reason = format!("{} and {} would both become {}", other.display(), photo.display(), name.display());
            return Err(Error::usage("--output", reason).with_hint("paint them into different folders"));
        }
        jobs.push(Job { photo: photo.clone(), output: folder.join(name) });
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(photos: &[&str]) -> Result<Vec<String>> {
        let photos: Vec<_> = photos.iter().map(PathBuf::from).collect();
        let jobs = names(Path::new("out"), Format::Png, &photos)?;
        Ok(jobs.into_iter().map(|job| job.output.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn paintings_have_their_photos_names() {
        assert_eq!(named(&["in/a.jpg", "b.v2.png"]).unwrap(), ["out/a.png", "out/b.v2.png"]);
        assert_eq!(named(&["a.jpg", "a.PNG", "b.jpg"]).unwrap(), ["out/a.jpg.png", "out/a.PNG.png", "out/b.png"]);
        assert!(named(&["x/a.jpg", "y/A.jpg"]).unwrap_err().to_string().contains("x/a.jpg and y/A.jpg"));
    }
}
