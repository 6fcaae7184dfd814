//! `--shard I/N`: which part of the pictures this process paints. A picture's part follows from its settings alone, so that
//! machines need not talk to each other.

use std::fmt;
use std::str::FromStr;

/// Part I of N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    /// From 1.
    pub(super) part: u32,
    /// How many parts there are.
    pub(super) of: u32,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not I/N, such as 2/8");
        let (part, of) = text.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let (part, of) = (number(part)?, number(of)?);
        if of == 0 || part == 0 || part > of {
            return Err(format!("there is no part {part} of {of}; parts are numbered from 1 to {}", of.max(1)));
        }
        Ok(Self { part, of })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.of)
    }
}

impl Shard {
    /// Whether a picture is this part's.
    pub(super) fn has(self, id: &str) -> bool {
        let hash = id.get(..16).and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or(0);
        hash % u64::from(self.of) == u64::from(self.part - 1)
    }

    /// For the names of this part's files: `-2-of-8`.
    pub(super) fn suffix(shard: Option<Self>) -> String {
        shard.map_or_else(String::new, |shard| format!("-{}-of-{}", shard.part, shard.of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_is_of_one_part() {
        for of in 1..9 {
            for seed in 0..200u64 {
                let id = format!("{:016x}", seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                assert_eq!((1..=of).filter(|&part| Shard { part, of }.has(&id)).count(), 1);
            }
        }
    }

    #[test]
    fn parts_that_are_not_there_are_refused() {
        assert_eq!("2/8".parse(), Ok(Shard { part: 2, of: 8 }));
        for wrong in ["3/2", "0/2", "1/0", "0/0", "2", "a/b", "1/2/3", "-1/2", "", "/"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
