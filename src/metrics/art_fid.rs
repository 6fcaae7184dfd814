//! ArtFID: kept content and taken-on style in one number, for a set of pictures.
//!
//! `(1 + LPIPS) (1 + FID)`: the mean over all pairs of LPIPS (AlexNet) between painted picture and photo, and the Fréchet
//! distance ([`super::frechet`]) between painted pictures and paintings in the features of an Inception net trained on
//! paintings. Pictures go in at their own size, as in the package art-fid 0.0.2; StyleID's evaluation resizes the short side
//! to 512 first. (What that package calls infinite FID needs 5000 pictures and more: with fewer, it fits a line through
//! fifteen equal points. It is not offered here.)
//!
//! Wright, Ommer, "ArtFID: quantitative evaluation of neural style transfer", 2022.

use super::{Better, Metric, With};

/// What it is.
pub const METRIC: Metric = Metric {
    name: "art-fid",
    title: "ArtFID",
    about: "(1 + LPIPS to the photos) (1 + Fréchet distance to the paintings in art-inception's features) (Wright, Ommer 2022)",
    with: With::Set,
    better: Better::Lower,
    range: (1.0, f64::INFINITY),
    digits: 3,
};

/// ArtFID of the mean LPIPS and of the Fréchet distance: 1 and more.
pub fn art_fid(mean_lpips: f64, frechet: f64) -> f64 {
    (1.0 + mean_lpips) * (1.0 + frechet)
}
