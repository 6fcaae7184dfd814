//! `PATH:NUMBER`, as styles and LoRAs are given.

use std::path::{Path, PathBuf};

/// The path and the number behind the last colon; nothing where there is no number, or a file is called so, colon and all.
pub(crate) fn split(given: &Path) -> Option<(PathBuf, f64)> {
    if given.exists() {
        return None;
    }
    let (path, number) = given.to_str()?.rsplit_once(':')?;
    Some((PathBuf::from(path), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_behind_the_last_colon() {
        let split =
            |text: &str| split(Path::new(text)).map(|(path, number)| (path.to_string_lossy().into_owned(), number));
        assert_eq!(split("a.png"), None);
        assert_eq!(split("C:\\a.png"), None);
        assert_eq!(split("a.png:0.25"), Some(("a.png".into(), 0.25)));
        assert_eq!(split("a:b.png:-2"), Some(("a:b.png".into(), -2.0)));
        assert_eq!(split(":1"), Some((String::new(), 1.0)));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a:2");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(super::split(&path), None);
    }
}
