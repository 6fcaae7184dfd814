//! What a layer's features have in common over a picture: means, deviations, Gram matrices, covariances.
//!
//! [`Sums`] holds them as plain sums over positions, so that a picture can be taken in piece by piece, some positions can
//! count less than others, and several pictures can be blended. Every statistic that a style loss looks at is a function of
//! these sums, and so its gradient reaches the features in one way: [`SumsGradient::to_features`].

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// Added to a variance before its root is taken.
pub const VARIANCE_EPS: f64 = 1e-5;

/// Mean and standard deviation (population, [`VARIANCE_EPS`] under the root) of every channel of every picture: two
/// `[batch, channels]`.
///
/// # Errors
/// When `features` is no `[batch, channels, height, width]`.
pub fn moments(features: &Tensor) -> Result<(Tensor, Tensor)> {
    let rows = features.flatten_from(2)?;
    let mean = rows.mean_keepdim(2)?;
    let variance = rows.broadcast_sub(&mean)?.sqr()?.mean(2)?;
    Ok((mean.squeeze(2)?, (variance + VARIANCE_EPS)?.sqrt()?))
}

/// `F F^T / (channels * height * width)` of every picture: `[batch, channels, channels]`.
///
/// # Errors
/// When `features` is no `[batch, channels, height, width]`.
pub fn gram(features: &Tensor) -> Result<Tensor> {
    let (_, channels, height, width) = features.dims4()?;
    let rows = features.flatten_from(2)?.contiguous()?;
    Ok((rows.matmul(&rows.t()?)? / (channels * height * width) as f64)?)
}

/// The covariance of the channels (population) of every picture: `[batch, channels, channels]`.
///
/// # Errors
/// When `features` is no `[batch, channels, height, width]`.
pub fn covariance(features: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = features.dims4()?;
    let rows = features.flatten_from(2)?;
    let centred = rows.broadcast_sub(&rows.mean_keepdim(2)?)?.contiguous()?;
    Ok((centred.matmul(&centred.t()?)? / (height * width) as f64)?)
}

/// Which sums are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Products of channels with each other, in single precision: enough where they are only compared.
    Products,
    /// Each channel and its square.
    Squares,
    /// Each channel and all products, in double precision: a covariance is a small difference of large sums.
    Everything,
}

/// Sums over the positions of a feature map.
#[derive(Debug, Clone, PartialEq)]
pub struct Sums {
    /// Of the positions' weights: their number, where all weigh 1.
    pub(super) weight: f64,
    /// Of each channel. Zeros for [`Order::Products`].
    pub(super) sum: Vec<f64>,
    /// Of all products of two channels, row by row; for [`Order::Squares`] those of channels with themselves.
    pub(super) products: Vec<f64>,
}

impl Sums {
    /// The sums over one picture's features `[1, channels, height, width]`, each position as heavy as `weights`
    /// `[1, 1, height, width]` says.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn of(features: &Tensor, weights: Option<&Tensor>, order: Order) -> Result<Self> {
        let (_, channels, height, width) = features.dims4()?;
        // Metal has no double precision.
        let precise = if features.device().is_metal() { DType::F32 } else { DType::F64 };
        let dtype = if order == Order::Products { DType::F32 } else { precise };
        let rows = features.reshape((channels, height * width))?.to_dtype(dtype)?;
        let (weighted, weight) = match weights {
            None => (rows.clone(), (height * width) as f64),
            Some(weights) => {
                let weights = weights.reshape((1, height * width))?.to_dtype(dtype)?;
                let weight = weights.to_dtype(precise)?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                (rows.broadcast_mul(&weights)?, weight)
            }
        };
        let sum = match order {
            Order::Products => vec![0.0; channels],
            Order::Squares | Order::Everything => to_vec(&weighted.sum(1)?)?,
        };
        let products = match order {
            Order::Squares => to_vec(&(weighted * &rows)?.sum(1)?)?,
            Order::Products | Order::Everything => to_vec(&weighted.contiguous()?.matmul(&rows.t()?)?)?,
        };
        Ok(Self { weight, sum, products })
    }

    /// Adds those of another piece of the picture.
    pub fn add(&mut self, other: &Self) {
        self.weight += other.weight;
        for (ours, theirs) in [(&mut self.sum, &other.sum), (&mut self.products, &other.products)] {
            for (ours, theirs) in ours.iter_mut().zip(theirs) {
                *ours += theirs;
            }
        }
    }

    /// The average position of several pictures, whatever their sizes, each with its part.
    ///
    /// # Errors
    /// When there are none, or their parts add up to nothing.
    pub fn blend(pictures: &[(Self, f64)]) -> Result<Self> {
        let all: f64 = pictures.iter().map(|(_, part)| part).sum();
        let Some((first, _)) = pictures.first().filter(|_| all > 0.0 && all.is_finite()) else {
            return Err(Error::usage("style weights", "add up to nothing"));
        };
        let mut out = Self { weight: 1.0, sum: vec![0.0; first.sum.len()], products: vec![0.0; first.products.len()] };
        for (picture, part) in pictures {
            let share = part / all / picture.weight;
            for (ours, theirs) in [(&mut out.sum, &picture.sum), (&mut out.products, &picture.products)] {
                for (ours, theirs) in ours.iter_mut().zip(theirs) {
                    *ours += share * theirs;
                }
            }
        }
        Ok(out)
    }

    /// How many positions there were, by weight.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    pub(super) fn channels(&self) -> usize {
        self.sum.len()
    }

    /// The average of every channel, and of every product.
    pub(super) fn averages(&self) -> (Vec<f64>, Vec<f64>) {
        let average = |sums: &[f64]| sums.iter().map(|sum| sum / self.weight).collect();
        (average(&self.sum), average(&self.products))
    }
}

/// The gradient of a loss to [`Sums`].
#[derive(Debug, Clone)]
pub struct SumsGradient {
    /// To each channel's sum.
    pub(super) sum: Vec<f64>,
    /// To the products, laid out as they are.
    pub(super) products: Vec<f64>,
}

impl SumsGradient {
    /// That of a multiple of the loss.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        self.sum.iter_mut().chain(&mut self.products).for_each(|value| *value *= factor);
        self
    }

    /// The gradient to the features that the sums were taken of, with the same weights.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn to_features(&self, features: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
        let (_, channels, height, width) = features.dims4()?;
        let device = features.device();
        let rows = features.reshape((channels, height * width))?;
        let doubled: Vec<f32> = self.products.iter().map(|value| (2.0 * value) as f32).collect();
        let mut out = if doubled.len() == channels {
            rows.broadcast_mul(&Tensor::from_vec(doubled, (channels, 1), device)?)?
        } else {
            Tensor::from_vec(doubled, (channels, channels), device)?.matmul(&rows.contiguous()?)?
        };
        if self.sum.iter().any(|&value| value != 0.0) {
            let sum: Vec<f32> = self.sum.iter().map(|&value| value as f32).collect();
            out = out.broadcast_add(&Tensor::from_vec(sum, (channels, 1), device)?)?;
        }
        if let Some(weights) = weights {
            out = out.broadcast_mul(&weights.reshape((1, height * width))?)?;
        }
        Ok(out.reshape(features.dims())?)
    }
}

fn to_vec(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}
