//! `--style IMAGE[:WEIGHT]`: which style pictures, and how much of each.

use crate::cli::weighted;
use impasto::{Error, Result};
use std::path::{Path, PathBuf};

/// A style as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// The picture's path, or the name of a style that came with the program.
    pub(super) path: PathBuf,
    /// Its part in the blend.
    pub(super) weight: f64,
}

impl Wanted {
    /// Reads `IMAGE` or `IMAGE:WEIGHT`. A file that is called so, colon and all, is that file.
    pub(super) fn parse(given: &Path) -> Result<Self> {
        let Some((path, weight)) = weighted::split(given) else {
            return Ok(Self { path: given.to_path_buf(), weight: 1.0 });
        };
        if path.as_os_str().is_empty() {
            return Err(Error::usage("--style", format!("`{}` names no picture", given.display())));
        }
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(Error::usage("--style", format!("the weight {weight} is not a number from 0 up")));
        }
        Ok(Self { path, weight })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, f64)> {
        Wanted::parse(Path::new(text)).map(|wanted| (wanted.path.to_string_lossy().into_owned(), wanted.weight))
    }

    #[test]
    fn a_weight_stands_behind_the_last_colon() {
        assert_eq!(parse("a.png").unwrap(), ("a.png".into(), 1.0));
        assert_eq!(parse("a.png:0.25").unwrap(), ("a.png".into(), 0.25));
        assert_eq!(parse("C:\\a.png").unwrap(), ("C:\\a.png".into(), 1.0));
        assert_eq!(parse("a:b.png:2").unwrap(), ("a:b.png".into(), 2.0));
        for wrong in ["a.png:-1", "a.png:nan", "a.png:inf", ":1"] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
