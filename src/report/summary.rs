//! The report's table: each variant's medians with their intervals, who wins against whom, and what it costs.

use std::collections::HashMap;

use serde::Serialize;

use super::statistics::{Spread, median, win_rate};
use super::{Plane, Report, Row};
use crate::metrics::Better;

/// Everything that is computed from the rows.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// By variant, then by metric; `None` where nothing was measured.
    pub cells: Vec<Vec<Option<Cell>>>,
    /// By metric, then by variant, then by the variant it is held against: how often the first is better on the same photo
    /// and painting. `None` where they have no pair in common or no way is better.
    pub wins: Vec<Vec<Vec<Option<f64>>>>,
    /// By variant; `None` for anchors and where nothing was painted.
    pub times: Vec<Option<Time>>,
    /// Content against style.
    pub plane: Plane,
}

/// A variant by one metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cell {
    /// Over the pairs of photo and painting.
    #[serde(flatten)]
    pub spread: Spread,
    /// How often it is better than a variant of another method on the same pair; alike counts half.
    pub wins: Option<f64>,
    /// Whether no other variant has a better median; anchors apart.
    pub best: bool,
}

/// What a variant costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Time {
    /// Seconds a picture, the first apart where there are more.
    pub seconds: Option<Spread>,
    /// Seconds for the first picture: memory is new to the program then, and caches are cold.
    pub first: Option<f64>,
    /// The median of the seconds that reading a style took.
    pub style: Option<f64>,
    /// Seconds to load the nets.
    pub load: Option<f64>,
    /// The most memory, in bytes.
    pub peak: Option<u64>,
}

impl Summary {
    /// Sums a report's rows up.
    pub fn of(report: &Report) -> Self {
        let columns: Vec<Vec<Column>> = (0..report.metrics.len())
            .map(|metric| (0..report.variants.len()).map(|variant| column(report, variant, metric)).collect())
            .collect();
        let wins: Vec<_> = columns.iter().enumerate().map(|(metric, columns)| wins(report, metric, columns)).collect();
        let cells = (0..report.variants.len())
            .map(|variant| {
                let cell = |(metric, columns): (usize, &Vec<Column>)| cell(report, (variant, metric), columns);
                columns.iter().enumerate().map(cell).collect()
            })
            .collect();
        let times = (0..report.variants.len()).map(|variant| time(report, variant)).collect();
        Self { cells, wins, times, plane: Plane::of(report) }
    }
}

/// A metric's values of one variant, by pair.
type Column = HashMap<(usize, usize), f64>;

fn rows(report: &Report, variant: usize) -> impl Iterator<Item = &Row> {
    report.rows.iter().filter(move |row| row.variant == variant)
}

fn column(report: &Report, variant: usize, metric: usize) -> Column {
    let value = |row: &Row| Some(((row.content, row.style), row.values.get(metric).copied().flatten()?));
    rows(report, variant).filter_map(value).filter(|(_, value)| value.is_finite()).collect()
}

fn cell(report: &Report, (variant, metric): (usize, usize), columns: &[Column]) -> Option<Cell> {
    // In the order of the rows: what a bootstrap draws depends on it.
    let own = &columns[variant];
    let values: Vec<f64> =
        rows(report, variant).filter_map(|row| own.get(&(row.content, row.style)).copied()).collect();
    let spread = Spread::of(&values)?;
    let Some(higher) = direction(report, metric) else { return Some(Cell { spread, wins: None, best: false }) };
    if report.variants[variant].anchor.is_some() {
        return Some(Cell { spread, wins: None, best: false });
    }
    let method = &report.variants[variant].method;
    let rivals = || (0..columns.len()).filter(|&other| report.variants[other].anchor.is_none());
    let others = rivals().filter(|&other| report.variants[other].method != *method);
    let wins = win_rate(others.flat_map(|other| pairs(own, &columns[other])), higher);
    let beaten = rivals().filter(|&other| other != variant).any(|other| {
        let mut values: Vec<f64> = columns[other].values().copied().collect();
        !values.is_empty() && (median(&mut values) > spread.median) == higher && median(&mut values) != spread.median
    });
    Some(Cell { spread, wins, best: !beaten })
}

fn wins(report: &Report, metric: usize, columns: &[Column]) -> Vec<Vec<Option<f64>>> {
    let higher = direction(report, metric);
    let against = |own: usize, other: usize| win_rate(pairs(&columns[own], &columns[other]), higher?);
    let row =
        |own: usize| (0..columns.len()).map(|other| if own == other { None } else { against(own, other) }).collect();
    (0..columns.len()).map(row).collect()
}

/// Whether more is better by a metric; `None` where neither way is.
fn direction(report: &Report, metric: usize) -> Option<bool> {
    match report.metrics.get(metric)?.better {
        Better::Higher => Some(true),
        Better::Lower => Some(false),
        Better::None => None,
    }
}

/// The values of two variants on the pairs that both have.
fn pairs<'a>(own: &'a Column, other: &'a Column) -> impl Iterator<Item = (f64, f64)> + 'a {
    own.iter().filter_map(|(pair, own)| Some((*own, *other.get(pair)?)))
}

fn time(report: &Report, variant: usize) -> Option<Time> {
    if report.variants[variant].anchor.is_some() {
        return None;
    }
    // In the order they were painted, which is not that of the rows: by painting, then by photo.
    let mut painted: Vec<&Row> = rows(report, variant).filter(|row| row.found.seconds.is_some()).collect();
    painted.sort_by_key(|row| (row.style, row.content));
    let seconds: Vec<f64> = painted.iter().filter_map(|row| row.found.seconds).collect();
    let warm = if seconds.len() > 1 { &seconds[1..] } else { &seconds[..] };
    let mut styles: Vec<f64> = painted.iter().filter_map(|row| row.found.style_seconds).collect();
    Some(Time {
        seconds: Spread::of(warm),
        first: seconds.first().copied(),
        style: if styles.is_empty() { None } else { Some(median(&mut styles)) },
        load: report.variants[variant].load_seconds,
        peak: painted.iter().filter_map(|row| row.found.peak_bytes).max(),
    })
    .filter(|time| time.first.is_some())
}
