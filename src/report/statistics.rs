//! Medians, bootstrap intervals and win rates: what a column of numbers is summed up as.
//!
//! The percentile bootstrap of Efron 1979 over the pairs of photo and painting. Draws are those of a generator with a fixed
//! seed, so that the same numbers give the same interval everywhere, and every column of as many pairs is drawn alike.

use crate::rng::TorchRng;

/// How many times the pairs are drawn anew.
pub const RESAMPLES: usize = 1000;
/// The part of the resamples inside the interval.
pub const COVERAGE: f64 = 0.9;
/// The seed of the draws.
const SEED: u64 = 0;

/// A median and the interval it may well have been in, had other pairs been chosen.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Spread {
    /// How many numbers there are.
    pub count: usize,
    /// Their median.
    pub median: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Spread {
    /// The spread of some numbers; `None` where there are none, or one of them is no number.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut rng = TorchRng::new(SEED);
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let mut drawn: Vec<f64> = values.iter().map(|_| values[rng.below(values.len())]).collect();
                median(&mut drawn)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let outside = (1.0 - COVERAGE) / 2.0;
        let (low, high) = (quantile(&medians, outside), quantile(&medians, 1.0 - outside));
        Some(Self { count: values.len(), median: median(&mut values.to_vec()), low, high })
    }
}

/// The middle of some numbers, or the mean of the two middle ones; 0 of none. Leaves them sorted.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values {
        [] => 0.0,
        _ => f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]),
    }
}

/// A quantile of sorted numbers, linear between neighbours (NumPy's default); 0 of none.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = part * (sorted.len().max(1) - 1) as f64;
    let below = sorted.get(at.floor() as usize).copied().unwrap_or(0.0);
    let above = sorted.get(at.ceil() as usize).copied().unwrap_or(below);
    below + (above - below) * (at - at.floor())
}

/// How often the first of each two numbers is the better one; alike counts half. `None` where there are none.
pub fn win_rate(pairs: impl Iterator<Item = (f64, f64)>, higher_is_better: bool) -> Option<f64> {
    let (mut count, mut won) = (0.0, 0.0);
    for (own, other) in pairs {
        count += 1.0;
        won += match own.total_cmp(&other) {
            std::cmp::Ordering::Equal => 0.5,
            order => f64::from((order == std::cmp::Ordering::Greater) == higher_is_better),
        };
    }
    (count > 0.0).then(|| won / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_middle_two() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut [7.0]), 7.0);
        assert_eq!(quantile(&[0.0, 1.0, 2.0, 3.0], 0.5), 1.5);
        assert_eq!(quantile(&[0.0, 10.0], 0.05), 0.5);
        assert_eq!(quantile(&[4.0], 0.95), 4.0);
    }

    #[test]
    fn an_interval_holds_its_median_and_narrows_with_more_numbers() {
        let wave = |count: u32| (0..count).map(|n| f64::from(n * 37 % count) / f64::from(count)).collect::<Vec<_>>();
        let (few, many) = (Spread::of(&wave(10)).unwrap(), Spread::of(&wave(400)).unwrap());
        for spread in [few, many] {
            assert!(spread.low <= spread.median && spread.median <= spread.high, "{spread:?}");
        }
        assert!(many.high - many.low < (few.high - few.low) / 3.0);
        assert_eq!(Spread::of(&[2.0]), Some(Spread { count: 1, median: 2.0, low: 2.0, high: 2.0 }));
        assert_eq!(Spread::of(&wave(10)), Some(few));
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn wins_are_counted_with_ties_as_halves() {
        let pairs = [(1.0, 2.0), (3.0, 2.0), (2.0, 2.0), (5.0, 1.0)];
        assert_eq!(win_rate(pairs.into_iter(), true), Some(0.625));
        assert_eq!(win_rate(pairs.into_iter(), false), Some(0.375));
        assert_eq!(win_rate(std::iter::empty(), true), None);
    }
}
