//! Losses on a perceptual network's features, with their gradients in closed form.
//!
//! None of them goes through candle's autograd: the formulas are short, and a frozen straight chain carries them to the
//! picture (see [`crate::nets::vgg`]).
//!
//! Gatys et al., "Image style transfer using convolutional neural networks", 2016 (Gram); Huang, Belongie, "Arbitrary style
//! transfer in real-time", 2017 (moments); Crowson, style-transfer-pytorch, 2021 (Wasserstein).

use candle_core::{DType, Tensor};

use super::statistics::{Order, Sums, SumsGradient, VARIANCE_EPS};
use super::transport::Transport;
use crate::error::{Error, Result};

/// Added to every variance of a covariance before two are compared.
const COVARIANCE_EPS: f64 = 1e-4;

/// How the style of two feature maps is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum StyleLoss {
    /// Mean squared difference of Gram matrices (Gatys, 2015)
    Gram,
    /// Mean squared difference of channels' means and standard deviations (AdaIN, 2017)
    Moments,
    /// Distance of two Gaussians: how far one would have to be moved to become the other
    #[default]
    Wasserstein,
}

impl StyleLoss {
    /// The sums it looks at.
    pub fn order(self) -> Order {
        match self {
            Self::Gram => Order::Products,
            Self::Moments => Order::Squares,
            Self::Wasserstein => Order::Everything,
        }
    }

    /// What a painting's sums ask of a picture.
    ///
    /// # Errors
    /// When the sums are of no position at all, or not finite.
    pub fn target(self, sums: &Sums) -> Result<Target> {
        let (mean, second) = sums.averages();
        let fits = match self {
            Self::Moments => second.len() == mean.len(),
            Self::Gram | Self::Wasserstein => second.len() == mean.len() * mean.len(),
        };
        if sums.weight() <= 0.0 || !fits || !mean.iter().chain(&second).all(|value| value.is_finite()) {
            return Err(Error::usage("style", "has no usable features: its region is empty or the network broken"));
        }
        let transport = (self == Self::Wasserstein).then(|| Transport::new(&to_covariance(&mean, &second), mean.len()));
        Ok(Target { loss: self, mean, second, transport, factor: 1.0 })
    }
}

/// A painting's style at one layer.
#[derive(Debug, Clone)]
pub struct Target {
    loss: StyleLoss,
    mean: Vec<f64>,
    second: Vec<f64>,
    transport: Option<Transport>,
    factor: f64,
}

impl Target {
    /// The loss that features would have which are zero everywhere, but for its small terms: what makes losses of different
    /// layers, networks and paintings comparable.
    pub fn magnitude(&self) -> f64 {
        let channels = self.mean.len() as f64;
        let magnitude = match (self.loss, &self.transport) {
            (StyleLoss::Gram, _) => self.second.iter().map(|value| value * value).sum::<f64>() / channels.powi(4),
            (_, None) => self.second.iter().sum::<f64>() / channels,
            (_, Some(_)) => self.second.iter().step_by(self.mean.len() + 1).sum::<f64>() / channels,
        };
        magnitude.max(1e-12)
    }

    /// From now on, losses are in units of [`Self::magnitude`].
    #[must_use]
    pub fn normalized(self) -> Self {
        Self { factor: 1.0 / self.magnitude(), ..self }
    }

    /// The loss of a picture's sums, and its gradient to them.
    ///
    /// # Errors
    /// When the sums are of another kind or width.
    pub fn compare(&self, sums: &Sums) -> Result<(f64, SumsGradient)> {
        if sums.channels() != self.mean.len() || sums.products.len() != self.second.len() {
            return Err(Error::usage("style", "the sums are not those that this loss looks at"));
        }
        let channels = sums.channels();
        let count = channels as f64;
        let (mean, second) = sums.averages();
        let apart: Vec<f64> = mean.iter().zip(&self.mean).map(|(ours, theirs)| ours - theirs).collect();
        let of_means = apart.iter().map(|apart| apart * apart).sum::<f64>() / count;
        let (value, mut to_mean, mut to_second) = match &self.transport {
            Some(transport) => {
                let (distance, to_covariance) = transport.compare(&to_covariance(&mean, &second))?;
                let to_covariance: Vec<f64> = to_covariance.iter().map(|value| value / count).collect();
                let pull =
                    to_covariance.chunks(channels).map(|row| row.iter().zip(&mean).map(|(a, b)| a * b).sum::<f64>());
                let to_mean = apart.iter().zip(pull).map(|(apart, pull)| 2.0 * (apart / count - pull)).collect();
                (of_means + distance / count, to_mean, to_covariance)
            }
            None if self.loss == StyleLoss::Gram => {
                let difference = second.iter().zip(&self.second).map(|(ours, theirs)| (ours - theirs) / count);
                let to_second: Vec<f64> = difference.map(|difference| 2.0 * difference / count.powi(3)).collect();
                let value = to_second.iter().map(|value| value * value).sum::<f64>() * count.powi(4) / 4.0;
                (value, vec![0.0; channels], to_second)
            }
            None => {
                let deviation = |mean: &f64, second: &f64| ((second - mean * mean).max(0.0) + VARIANCE_EPS).sqrt();
                let (mut of_deviations, mut to_mean, mut to_second) = (0.0, Vec::new(), Vec::new());
                for (((mean, second), (their_mean, their_second)), apart) in
                    mean.iter().zip(&second).zip(self.mean.iter().zip(&self.second)).zip(&apart)
                {
                    let ours = deviation(mean, second);
                    let wider = ours - deviation(their_mean, their_second);
                    of_deviations += wider * wider / count;
                    let to_variance = wider / count / ours;
                    to_second.push(to_variance);
                    to_mean.push(2.0 * (apart / count - to_variance * mean));
                }
                (of_means + of_deviations, to_mean, to_second)
            }
        };
        for value in to_mean.iter_mut().chain(&mut to_second) {
            *value *= self.factor / sums.weight();
        }
        Ok((value * self.factor, SumsGradient { sum: to_mean, products: to_second }))
    }

    /// The loss of a whole feature map `[1, channels, height, width]`, and its gradient to it.
    ///
    /// # Errors
    /// When the widths differ.
    pub fn of(&self, features: &Tensor) -> Result<(f64, Tensor)> {
        let (value, gradient) = self.compare(&Sums::of(features, None, self.loss.order())?)?;
        Ok((value, gradient.to_features(features, None)?))
    }
}

fn to_covariance(mean: &[f64], second: &[f64]) -> Vec<f64> {
    let mut covariance = second.to_vec();
    for (row, (values, first)) in covariance.chunks_mut(mean.len()).zip(mean).enumerate() {
        for (value, other) in values.iter_mut().zip(mean) {
            *value -= first * other;
        }
        values[row] += COVARIANCE_EPS;
    }
    covariance
}

/// The mean squared difference of features, and its gradient to them.
///
/// # Errors
/// When the shapes differ.
pub fn content(features: &Tensor, target: &Tensor) -> Result<(f64, Tensor)> {
    let difference = (features - target)?;
    let count = difference.elem_count().max(1) as f64;
    Ok((sum_of_squares(&difference)? / count, (difference * (2.0 / count))?))
}

/// The mean squared difference of neighbours, across plus down, and its gradient to the picture
/// `[batch, channels, height, width]`.
///
/// # Errors
/// When the tensor library fails.
pub fn total_variation(image: &Tensor) -> Result<(f64, Tensor)> {
    let mut value = 0.0;
    let mut gradient = image.zeros_like()?;
    for axis in [2, 3] {
        let side = image.dim(axis)?;
        if side < 2 {
            continue;
        }
        let difference = (image.narrow(axis, 1, side - 1)? - image.narrow(axis, 0, side - 1)?)?;
        let count = difference.elem_count() as f64;
        value += sum_of_squares(&difference)? / count;
        let towards = (difference * (2.0 / count))?;
        gradient = ((gradient + towards.pad_with_zeros(axis, 1, 0)?)? - towards.pad_with_zeros(axis, 0, 1)?)?;
    }
    Ok((value, gradient))
}

/// Summed in parts: a single precision sum over a large picture would lose digits.
pub(super) fn sum_of_squares(xs: &Tensor) -> Result<f64> {
    let lines = xs.sqr()?.sum(xs.rank() - 1)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    Ok(lines.iter().map(|&line| f64::from(line)).sum())
}
