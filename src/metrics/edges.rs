//! Edge F-score: whether the photo's outlines are still there, and no others.
//!
//! Two black and white edge maps are compared: precision is the share of the picture's edge pixels that lie within a
//! tolerance of one of the photo's, recall the share of the photo's that lie within it of one of the picture's, and F their
//! harmonic mean. The tolerance is the Berkeley benchmark's, 0.0075 of the diagonal (2.7 pixels at 256 x 256), but at least
//! one pixel; unlike there, an edge pixel may serve several others, and edges are not thinned. Pictures without any edge
//! agree (1); where only one has edges, F is 0.
//!
//! Edges come from Canny (as `impasto control canny` finds them, thresholds 100 and 200) or from HED (fused output of at
//! least one half). They see different things, so they are two metrics.
//!
//! Martin, Fowlkes, Malik, "Learning to detect natural image boundaries", 2004; Xie, Tu, "Holistically-nested edge
//! detection", 2015; Canny, "A computational approach to edge detection", 1986.

use ::image::RgbImage;
use rayon::prelude::*;

use super::{Better, Metric, With};
use crate::control::canny::canny;
use crate::error::{Error, Result};
use crate::image::tensor;
use crate::nets::hed::Hed;

/// With Canny's edges.
pub const CANNY: Metric = Metric {
    name: "edge-f-canny",
    title: "edge F, Canny",
    about: "outlines kept of the photo: F-score of Canny's edges, tolerance 0.0075 of the diagonal",
    with: With::Photo,
    better: Better::Higher,
    range: (0.0, 1.0),
    digits: 4,
};

/// With HED's edges.
pub const HED: Metric = Metric {
    name: "edge-f-hed",
    title: "edge F, HED",
    about: "outlines kept of the photo: F-score of HED's edges, tolerance 0.0075 of the diagonal",
    ..CANNY
};

const LOW: f64 = 100.0;
const HIGH: f64 = 200.0;
const SURE: f32 = 0.5;
const TOLERANCE: f64 = 0.0075;

/// Where a picture has edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edges {
    width: usize,
    marks: Vec<bool>,
}

impl Edges {
    /// Canny's.
    pub fn canny(picture: &RgbImage) -> Self {
        let marks = canny(picture, LOW, HIGH).into_raw().into_iter().map(|byte| byte > 0).collect();
        Self { width: picture.width() as usize, marks }
    }

    /// HED's.
    ///
    /// # Errors
    /// When the net fails.
    pub fn hed(net: &Hed, picture: &RgbImage) -> Result<Self> {
        let found = net.edges(&tensor::to_unit(picture)?)?;
        let marks = super::style::values(&found)?.into_iter().map(|value| value >= SURE).collect();
        Ok(Self { width: picture.width() as usize, marks })
    }

    /// For each place, how many lines up or down the nearest edge is; `None` where the column has none.
    fn lines_away(&self) -> Vec<Option<usize>> {
        let (width, height) = (self.width, self.marks.len() / self.width.max(1));
        let mut away: Vec<Option<usize>> = vec![None; self.marks.len()];
        for x in 0..width {
            let mut pass = |rows: &mut dyn Iterator<Item = usize>| {
                let mut last: Option<usize> = None;
                for at in rows.map(|y| y * width + x) {
                    last = if self.marks[at] { Some(0) } else { last.map(|last| last + 1) };
                    away[at] = match (away[at], last) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    };
                }
            };
            pass(&mut (0..height));
            pass(&mut (0..height).rev());
        }
        away
    }

    /// The share of these edges that lie within `tolerance` pixels of one of the others; `None` where there are none.
    fn share_near(&self, others: &Self, tolerance: f64) -> Option<f64> {
        let (away, reach) = (others.lines_away(), tolerance as usize);
        let near = |at: usize| {
            let (x, row) = (at % self.width, at - at % self.width);
            (x.saturating_sub(reach)..=(x + reach).min(self.width - 1)).any(|column| {
                let across = (column.abs_diff(x) as f64).powi(2);
                away[row + column].is_some_and(|lines| across + (lines as f64).powi(2) <= tolerance * tolerance)
            })
        };
        let edges: Vec<usize> = (0..self.marks.len()).filter(|&at| self.marks[at]).collect();
        let found = edges.par_iter().filter(|&&at| near(at)).count();
        (!edges.is_empty()).then(|| found as f64 / edges.len() as f64)
    }
}

/// The F-score of a picture's edges against the photo's: 0 to 1, 1 where they are the same.
///
/// # Errors
/// When the sizes differ.
pub fn f_score(painted: &Edges, photo: &Edges) -> Result<f64> {
    if (painted.width, painted.marks.len()) != (photo.width, photo.marks.len()) {
        return Err(
            Error::usage("edges", "the pictures have different sizes").with_hint("bring them to one size first")
        );
    }
    let height = photo.marks.len() / photo.width.max(1);
    let tolerance = (TOLERANCE * (photo.width as f64).hypot(height as f64)).max(1.0);
    Ok(match (painted.share_near(photo, tolerance), photo.share_near(painted, tolerance)) {
        (None, None) => 1.0,
        (Some(precision), Some(recall)) if precision + recall > 0.0 => 2.0 * precision * recall / (precision + recall),
        _ => 0.0,
    })
}
