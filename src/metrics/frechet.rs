//! Fréchet distance of two sets of pictures: how far apart the Gaussians are that their features make.
//!
//! `|m - m*|^2 + tr S + tr S* - 2 tr (S S*)^1/2` with means m and covariances S (dividing by the number of pictures less one)
//! of the 2048 features of an Inception net, one row per picture. Equal to pytorch-fid 0.3.0 where S S* is well behaved; the
//! trace of the root is computed another way. With the centred rows A and B, `S = A^T A / (n - 1)`, and the eigenvalues of
//! S S* are the squared singular values of `A B^T` over `(n - 1)(n* - 1)`: so the trace is a sum of singular values of a
//! matrix of pictures by pictures, exact for few pictures, where the root of a singular 2048 x 2048 product is not.
//!
//! Biased upwards for few pictures: values compare only at equal numbers of them, and a set that holds the same picture
//! several times counts it several times.
//!
//! Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017.

use super::{Better, Metric, With};
use crate::error::{Error, Result};

/// What it is, with the features of the net that FID is defined with.
pub const METRIC: Metric = Metric {
    name: "fid",
    title: "FID",
    about: "Fréchet distance of the pictures' set to the paintings' in Inception's features (Heusel et al. 2017)",
    with: With::Set,
    better: Better::Lower,
    range: (0.0, f64::INFINITY),
    digits: 2,
};

/// The distance of two sets of features, one row per picture, all of one length: 0 and more.
///
/// # Errors
/// When a set has fewer than two rows, or rows differ in length.
pub fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> Result<f64> {
    let width = a.first().map_or(0, Vec::len);
    if a.len() < 2 || b.len() < 2 {
        let reason = format!("sets of {} and {} pictures have no spread", a.len(), b.len());
        return Err(Error::usage("Fréchet distance", reason).with_hint("each set needs two pictures at least"));
    }
    if a.iter().chain(b).any(|row| row.len() != width) {
        return Err(Error::usage("Fréchet distance", "the features are not all of one net"));
    }
    let ((mean_a, rows_a), (mean_b, rows_b)) = (centred(a), centred(b));
    let apart: f64 = mean_a.iter().zip(&mean_b).map(|(a, b)| (a - b).powi(2)).sum();
    let spread = |rows: &[Vec<f64>]| rows.iter().map(|row| dot(row, row)).sum::<f64>() / (rows.len() - 1) as f64;
    // Few columns, long ones: each pair of columns is turned once a sweep.
    let (fewer, more) = if rows_a.len() < rows_b.len() { (&rows_a, &rows_b) } else { (&rows_b, &rows_a) };
    let columns = fewer.iter().map(|row| more.iter().map(|other| dot(row, other)).collect()).collect();
    let overlap = singular_values(columns).iter().sum::<f64>() / (((a.len() - 1) * (b.len() - 1)) as f64).sqrt();
    Ok((apart + spread(&rows_a) + spread(&rows_b) - 2.0 * overlap).max(0.0))
}

fn centred(rows: &[Vec<f32>]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut mean = vec![0.0; rows[0].len()];
    for row in rows {
        for (mean, &value) in mean.iter_mut().zip(row) {
            *mean += f64::from(value) / rows.len() as f64;
        }
    }
    let less = |row: &Vec<f32>| row.iter().zip(&mean).map(|(&value, mean)| f64::from(value) - mean).collect();
    let centred = rows.iter().map(less).collect();
    (mean, centred)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// One-sided Jacobi: columns are turned against each other until all are orthogonal; their lengths are the singular values.
fn singular_values(mut columns: Vec<Vec<f64>>) -> Vec<f64> {
    const SWEEPS: usize = 60;
    // Against the largest length: what is smaller than rounding there turns for ever and changes nothing.
    let floor = columns.iter().map(|column| dot(column, column)).fold(0.0, f64::max) * 1e-30;
    for _ in 0..SWEEPS {
        let mut turned = false;
        for q in 1..columns.len() {
            let (before, rest) = columns.split_at_mut(q);
            let right = &mut rest[0];
            for left in before {
                let (a, b, c) = (dot(left, left), dot(right, right), dot(left, right));
                if c.abs() <= 1e-14 * (a * b).sqrt() || a.min(b) <= floor {
                    continue;
                }
                turned = true;
                let slope = (b - a) / (2.0 * c);
                let tangent = slope.signum() / (slope.abs() + slope.hypot(1.0));
                let cosine = tangent.hypot(1.0).recip();
                let sine = cosine * tangent;
                for (x, y) in left.iter_mut().zip(right.iter_mut()) {
                    (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
                }
            }
        }
        if !turned {
            break;
        }
    }
    columns.iter().map(|column| dot(column, column).sqrt()).collect()
}
