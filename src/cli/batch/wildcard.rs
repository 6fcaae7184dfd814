//! Wildcards: `__animals__` in a prompt stands for each line of `animals.txt` beside the job file.

use impasto::{Error, Result};
use std::path::PathBuf;

/// A file of lines past this size is none.
const MAX_BYTES: u64 = 16 << 20;

/// The names of the wildcards in a text, in their order, each once.
pub(super) fn names(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("__") {
        match after.split_once("__") {
            Some((name, behind)) if is_name(name) => {
                if !found.contains(&name) {
                    found.push(name);
                }
                rest = behind;
            }
            _ => rest = after,
        }
    }
    found
}

/// A text with one of its wildcards filled in.
pub(super) fn fill(text: &str, name: &str, line: &str) -> String {
    text.replace(&format!("__{name}__"), line)
}

/// The lines a wildcard stands for. Empty ones and those that begin with `#` are passed over.
pub(super) fn lines(name: &str) -> Result<Vec<String>> {
    let path = PathBuf::from(format!("{name}.txt"));
    let bytes = std::fs::metadata(&path).map_err(|error| Error::io(&path, error))?.len();
    if bytes > MAX_BYTES {
        return Err(Error::file(path, format!("is too large for a list of lines: {bytes} bytes")));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
    let text = text.trim_start_matches('\u{feff}');
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<_> = lines.map(str::to_owned).collect();
    if lines.is_empty() {
        return Err(Error::file(path, "has no lines"));
    }
    Ok(lines)
}

// A name is a path without dots, so that it leads nowhere but down.
fn is_name(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('_')
            && !part.ends_with('_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
    };
    text.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_found_and_filled_in() {
        assert_eq!(names("a __big_cat__ and __sea/fish__, __big_cat__"), ["big_cat", "sea/fish"]);
        assert_eq!(names("snake_case, __, ____, __a b__, __../etc/passwd__, __x"), [""; 0]);
        assert_eq!(names("__a__b__"), ["a"]);
        assert_eq!(names("__a b__c__"), ["c"]);
        assert_eq!(fill("a __x__ on a __x__", "x", "mat"), "a mat on a mat");
    }
}
