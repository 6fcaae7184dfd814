//! The way from one Gaussian to another: the squared Wasserstein-2 distance of two covariances and its gradient.
//!
//! `tr(S + S* - 2 (R S R)^1/2)`, `R = S*^1/2`, is taken through Cholesky factors `S = L L^T`, `S* = M M^T` as
//! `tr S + tr S* - 2 |L^T M|`, with `|..|` the sum of singular values. That is the same number, but the root of `R S R` has the
//! square of the condition of `L^T M`, which single precision cannot hold: a Newton-Schulz iteration for the root (Katherine
//! Crowson's style-transfer-pytorch takes twelve steps of it) loses every direction with less than about a hundredth of the
//! largest deviation. Newton-Schulz for the polar decomposition of `L^T M` has neither trouble.
//!
//! Chen, Chow, "A stable scaling of Newton-Schulz for improving the sign function computation", 2014.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::error::Result;

/// Scales of the polar iteration. With 1.7 small singular values grow by 2.55 a step while those at 1 stay above 0.09; the
/// following scales bring that range together; without scale the rest converges quadratically.
const SCALES: [f64; 19] =
    [1.7, 1.7, 1.7, 1.7, 1.7, 1.7, 1.7, 1.7, 1.7, 1.7, 1.7, 1.7, 1.65, 1.53, 1.3056, 1.0823, 1.0, 1.0, 1.0];

/// A covariance, ready to be compared with.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    side: usize,
    factor: Vec<f64>,
    trace: f64,
}

impl Transport {
    /// Of a symmetric positive matrix, row by row.
    pub(super) fn new(covariance: &[f64], side: usize) -> Self {
        Self { side, factor: cholesky(covariance, side), trace: trace(covariance, side) }
    }

    /// The squared distance, and its gradient to `covariance`.
    pub(super) fn compare(&self, covariance: &[f64]) -> Result<(f64, Vec<f64>)> {
        let side = self.side;
        let factor = cholesky(covariance, side);
        let product = square(&factor, side)?.t()?.matmul(&square(&self.factor, side)?)?;
        let polar = polar(&product)?;
        let values = |xs: &Tensor| Ok::<_, crate::Error>(xs.flatten_all()?.to_vec1::<f32>()?);
        let overlap: f64 =
            values(&polar)?.iter().zip(values(&product)?).map(|(a, b)| f64::from(*a) * f64::from(b)).sum();
        let distance = trace(covariance, side) + self.trace - 2.0 * overlap;

        // 1 - T, where T = M U^T L^-1 carries the one Gaussian onto the other. (L^-T U M^T is the same matrix, but rounding
        // in U then shows up, enlarged, where `covariance` has nothing.)
        let mut map: Vec<f64> =
            values(&square(&self.factor, side)?.matmul(&polar.t()?)?)?.into_iter().map(f64::from).collect();
        map.par_chunks_mut(side).enumerate().for_each(|(row, values)| {
            for at in (0..side).rev() {
                let line = &factor[at * side..][..=at];
                let value = values[at] / line[at];
                for (value_before, entry) in values[..at].iter_mut().zip(line) {
                    *value_before -= value * entry;
                }
                values[at] = value;
            }
            for (at, value) in values.iter_mut().enumerate() {
                *value = f64::from(u8::from(at == row)) - *value;
            }
        });
        Ok((distance, map))
    }
}

fn square(values: &[f64], side: usize) -> Result<Tensor> {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Ok(Tensor::from_vec(values, (side, side), &Device::Cpu)?)
}

fn trace(matrix: &[f64], side: usize) -> f64 {
    matrix.iter().step_by(side + 1).sum()
}

/// The lower factor. A pivot that rounding made nothing or less is lifted: its direction carries nothing either way.
fn cholesky(matrix: &[f64], side: usize) -> Vec<f64> {
    let mut factor = vec![0.0; side * side];
    for row in 0..side {
        let (above, current) = factor.split_at_mut(row * side);
        let current = &mut current[..side];
        for column in 0..row {
            let line = &above[column * side..][..=column];
            current[column] = (matrix[row * side + column] - dot(&current[..column], &line[..column])) / line[column];
        }
        let own = matrix[row * side + row];
        let pivot = own - dot(&current[..row], &current[..row]);
        current[row] = pivot.max(1e-13 * own).max(1e-30).sqrt();
    }
    factor
}

/// In eight lanes, which the compiler may not choose by itself: the order of the sum would change.
fn dot(left: &[f64], right: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    for (left, right) in left.iter().zip(right) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left * right;
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The orthogonal factor of a matrix.
fn polar(matrix: &Tensor) -> Result<Tensor> {
    let size = matrix.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt().max(1e-30);
    let mut xs = (matrix / f64::from(size))?;
    for scale in SCALES {
        let inner = xs.t()?.matmul(&xs)?;
        let cubic = xs.matmul(&inner)?;
        xs = ((xs * (1.5 * scale))? - (cubic * (0.5 * scale.powi(3)))?)?;
    }
    Ok(xs)
}
