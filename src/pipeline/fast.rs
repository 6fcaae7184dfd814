//! Work that may be left out of a picture, at a price: the picture is then like the exact one, not the same. Never a default.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

const SUBJECT: &str = "--fast";
/// What the authors of DeepCache call hardly visible.
const EVERY: usize = 3;
const MOST: usize = 100;

/// What is left out. Written `none`, `deepcache` or `deepcache=N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fast {
    /// Nothing: every evaluation is the whole UNet's.
    #[default]
    None,
    /// One evaluation in `every` is whole; the others renew the outermost layers alone (Ma et al. 2023, arXiv:2312.00858).
    DeepCache {
        /// 2 or more.
        every: usize,
    },
}

impl Fast {
    /// Whether the deep layers must be evaluated at this evaluation, counted from 0.
    pub(super) fn is_whole(self, index: usize) -> bool {
        match self {
            Self::None => true,
            Self::DeepCache { every } => index.is_multiple_of(every),
        }
    }
}

impl FromStr for Fast {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, every) = match text.trim().split_once('=') {
            Some((name, every)) => (name, Some(every)),
            None => (text.trim(), None),
        };
        match (name, every.map(str::parse::<usize>)) {
            ("none", None) => Ok(Self::None),
            ("deepcache", None) => Ok(Self::DeepCache { every: EVERY }),
            ("deepcache", Some(Ok(every))) if (2..=MOST).contains(&every) => Ok(Self::DeepCache { every }),
            ("deepcache", Some(_)) => {
                let reason = format!("\"{}\": N is a whole number from 2 to {MOST}", text.trim());
                Err(Error::usage(SUBJECT, reason).with_hint("deepcache=3 evaluates the whole net at every third step"))
            }
            _ => Err(Error::usage(SUBJECT, format!("\"{}\" is not known", text.trim()))
                .with_hint("write none, deepcache or deepcache=N")),
        }
    }
}

impl fmt::Display for Fast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::DeepCache { every } => write!(f, "deepcache={every}"),
        }
    }
}

impl TryFrom<String> for Fast {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Fast> for String {
    fn from(fast: Fast) -> Self {
        fast.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["none", "deepcache=2", "deepcache=100"] {
            assert_eq!(text.parse::<Fast>().unwrap().to_string(), text);
        }
        assert_eq!(" deepcache".parse::<Fast>().unwrap(), Fast::DeepCache { every: 3 });
        for text in
            ["", "fast", "none=1", "deepcache=", "deepcache=1", "deepcache=101", "deepcache=-1", "deepcache=2.5"]
        {
            let error = text.parse::<Fast>().unwrap_err();
            assert!(error.to_string().starts_with("--fast") && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn the_first_evaluation_is_always_whole() {
        let whole = |fast: Fast| (0..7).filter(|&index| fast.is_whole(index)).collect::<Vec<_>>();
        assert_eq!(whole(Fast::None), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(whole(Fast::DeepCache { every: 3 }), [0, 3, 6]);
    }
}
