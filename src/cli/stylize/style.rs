//! `--style IMAGE[:WEIGHT]`: which style pictures, and how much of each.

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
        let whole = || Self { path: given.to_path_buf(), weight: 1.0 };
        if given.exists() {
            return Ok(whole());
        }
        let Some((path, weight)) = given.to_str().and_then(|text| text.rsplit_once(':')) else { return Ok(whole()) };
        match weight.parse::<f64>() {
            Ok(_) if path.is_empty() => Err(Error::usage("--style", format!("`{}` names no picture", given.display()))),
            Ok(weight) if weight.is_finite() && weight >= 0.0 => Ok(Self { path: PathBuf::from(path), weight }),
            Ok(weight) => Err(Error::usage("--style", format!("the weight {weight} is not a number from 0 up"))),
            // Not a weight: part of the name.
            Err(_) => Ok(whole()),
        }
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

    #[test]
    fn a_file_with_a_colon_in_its_name_is_that_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a:2");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Wanted::parse(&path).unwrap(), Wanted { path, weight: 1.0 });
    }
}
