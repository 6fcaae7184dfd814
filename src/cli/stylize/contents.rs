//! The photos: files, folders, and patterns over the names in a folder.
//!
//! What is missing or empty is told with the others' names still known, so that one wrong path does not stop a night's work.

use impasto::{Error, Result};
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Endings of the pictures that are taken from a folder.
const PICTURES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// The photos of a command line.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The photos, in the order they were given; those of a folder in the order of their names.
    pub(super) photos: Vec<PathBuf>,
    /// What was asked for and is not there.
    pub(super) missing: Vec<Error>,
    /// The folders that were given as such.
    pub(super) folders: Vec<PathBuf>,
    /// Whether a single file was given as such, so that the output is a file too.
    pub(super) single: bool,
}

impl Contents {
    /// Finds the photos.
    pub(super) fn find(given: &[PathBuf]) -> Self {
        let mut found = Self::default();
        for path in given {
            match expand(path) {
                Ok(Expanded::File) => found.photos.push(path.clone()),
                Ok(Expanded::Folder(photos)) => {
                    found.folders.push(path.clone());
                    found.photos.extend(photos);
                }
                Ok(Expanded::Pattern(photos)) => found.photos.extend(photos),
                Err(error) => found.missing.push(error),
            }
        }
        // A photo named twice, by itself and by a pattern, is one photo.
        let mut seen = std::collections::HashSet::new();
        found.photos.retain(|photo| seen.insert(photo.clone()));
        found.single = given.len() == 1 && found.folders.is_empty() && !is_pattern(&given[0]);
        found
    }
}

/// What a path stands for.
pub(in crate::cli) enum Expanded {
    /// Itself.
    File,
    /// The pictures in a folder.
    Folder(Vec<PathBuf>),
    /// The files whose names fit a pattern.
    Pattern(Vec<PathBuf>),
}

impl Expanded {
    /// The pictures that `path` stands for.
    pub(in crate::cli) fn pictures(self, path: &Path) -> Vec<PathBuf> {
        match self {
            Self::File => vec![path.to_path_buf()],
            Self::Folder(pictures) | Self::Pattern(pictures) => pictures,
        }
    }
}

/// The picture in a folder whose name is `stem` and any ending.
pub(super) fn of_stem(folder: &Path, stem: &OsStr) -> Result<Option<PathBuf>> {
    Ok(list(folder, |name| is_picture(name) && Path::new(name).file_stem() == Some(stem))?.into_iter().next())
}

fn is_picture(name: &OsStr) -> bool {
    let ending = Path::new(name).extension();
    ending.is_some_and(|ending| PICTURES.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// Finds what a path, a folder or a pattern stands for.
pub(in crate::cli) fn expand(path: &Path) -> Result<Expanded> {
    if path.is_dir() {
        let photos = list(path, is_picture)?;
        if photos.is_empty() {
            return Err(Error::file(path, "is a folder without pictures")
                .with_hint("pictures are files that end in .png, .jpg, .jpeg or .webp"));
        }
        return Ok(Expanded::Folder(photos));
    }
    // A file may be called anything, `what?.png` too.
    if path.symlink_metadata().is_err() && is_pattern(path) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let pattern: Vec<char> = path.file_name().unwrap_or_default().to_string_lossy().chars().collect();
        let fits = |name: &OsStr| matches(&pattern, &name.to_string_lossy().chars().collect::<Vec<_>>());
        let photos = list(folder.unwrap_or(Path::new(".")), fits)?;
        if photos.is_empty() {
            return Err(Error::file(path, "fits no file"));
        }
        // As the user would have written them.
        let here = |photo: PathBuf| match folder {
            Some(_) => photo,
            None => PathBuf::from(photo.file_name().unwrap_or_default()),
        };
        return Ok(Expanded::Pattern(photos.into_iter().map(here).collect()));
    }
    std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
    Ok(Expanded::File)
}

/// Whether the last part of a path has wildcards in it, and is no file's name.
fn is_pattern(path: &Path) -> bool {
    path.symlink_metadata().is_err() && path.file_name().is_some_and(|name| name.to_string_lossy().contains(['*', '?']))
}

/// The files in a folder whose names fit, in the order of their names. Hidden ones are not looked at, folders neither.
fn list(folder: &Path, fits: impl Fn(&OsStr) -> bool) -> Result<Vec<PathBuf>> {
    let wrong = |error| Error::io(folder, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with('.') && fits(&name) && !entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort_by(|a, b| by_number(&a.to_string_lossy(), &b.to_string_lossy()).then_with(|| a.cmp(b)));
    Ok(found)
}

/// Whether a name fits a pattern: `*` for any characters, `?` for one.
fn matches(pattern: &[char], name: &[char]) -> bool {
    // To where to go back when the characters after a star turn out not to fit: (after the star, in the name).
    let (mut at, mut in_name, mut back) = (0, 0, None);
    while in_name < name.len() {
        match pattern.get(at) {
            Some('*') => {
                back = Some((at + 1, in_name));
                at += 1;
            }
            Some(&c) if c == '?' || c == name[in_name] => (at, in_name) = (at + 1, in_name + 1),
            _ => match &mut back {
                Some((after, from)) => {
                    *from += 1;
                    (at, in_name) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&c| c == '*')
}

/// As people count: `frame2` comes before `frame10`.
fn by_number(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let order = match (digits(a), digits(b)) {
            (0, _) | (_, 0) => {
                let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) else { return a.len().cmp(&b.len()) };
                (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]);
                x.cmp(&y)
            }
            (m, n) => {
                let (x, y) = (a[..m].trim_start_matches('0'), b[..n].trim_start_matches('0'));
                (a, b) = (&a[m..], &b[n..]);
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        matches(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
    }

    #[test]
    fn stars_and_question_marks_stand_for_characters() {
        for (pattern, name) in
            [("*", ""), ("*.jpg", "a.jpg"), ("a?c", "abc"), ("*b*", "aabcb"), ("**x", "x"), ("é?", "éa")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.jpg", "a.png"), ("a?c", "ac"), ("?", ""), ("", "a"), ("*a", "ab")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        // Quadratic at most, where a naive matcher would take a lifetime.
        assert!(!fits(&"*a".repeat(50), &"a".repeat(49)));
    }

    #[test]
    fn names_are_in_the_order_people_count() {
        let mut names = ["f10.png", "f2.png", "f1.png", "g", "f002b", "f"];
        names.sort_by(|a, b| by_number(a, b));
        assert_eq!(names, ["f", "f1.png", "f2.png", "f002b", "f10.png", "g"]);
    }
}
