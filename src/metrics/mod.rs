//! What is measured of a painted picture: how much of the photo it kept, how much of the painting it took on.
//!
//! One file per metric, each with its definition, its source and its range; every one equals a Python reference on the
//! fixtures of `tests/reference/metrics.py`. A metric whose weights are not there is [`Absent`]: nothing else is ever
//! reported under its name. Must not open files; see [`crate::pipeline::open_suite`].

pub mod art_fid;
pub mod cfsd;
pub mod clip;
pub mod content;
pub mod edges;
pub mod frechet;
mod gates;
pub mod gram;
pub mod histogram;
mod look;
pub mod lpips;
pub mod ms_ssim;
pub mod ssim;
pub mod style;
mod suite;

use ::image::RgbImage;
use serde::Serialize;

pub use gates::{Gate, check_gates};
pub use look::Look;
pub use suite::{Nets, SetFeatures, Suite};

/// Which way a metric points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// Neither: it describes.
    None,
}

/// What the picture judged is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum With {
    /// The photo: what was kept.
    Photo,
    /// The painting: what was taken on.
    Style,
    /// The words.
    Prompt,
    /// A set of paintings, as a set itself: see [`Suite::measure_set`].
    Set,
}

/// One metric: what it is called, where it comes from, which way is better, its range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Metric {
    /// In files and tables, in kebab-case: `ms-ssim`.
    pub name: &'static str,
    /// For people: `MS-SSIM`.
    pub title: &'static str,
    /// What it says and whose it is, in one sentence.
    pub about: &'static str,
    /// What the picture is compared with.
    pub with: With,
    /// Which way is better.
    pub better: Better,
    /// The least and the largest value there can be; infinite where there is no bound.
    #[serde(skip)]
    pub range: (f64, f64),
    /// How many digits after the point are worth showing.
    pub digits: usize,
}

/// What cannot be measured here, and how it can be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Absent {
    /// The metric.
    pub metric: Metric,
    /// Why it is absent.
    pub reason: String,
    /// What to do to have it.
    pub how: String,
}

/// A picture to be judged, with what it was made of. The photo has the painted picture's size; the painting need not.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The photo that was repainted.
    pub photo: Option<&'a RgbImage>,
    /// The painting whose style was asked for.
    pub style: Option<&'a RgbImage>,
    /// The picture judged.
    pub painted: &'a RgbImage,
    /// The words that were asked for.
    pub prompt: Option<&'a str>,
}
