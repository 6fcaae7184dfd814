//! Colours, statistics and losses against numpy and torch (tests/reference/style.py).

use std::collections::HashMap;

use ::image::RgbImage;
use candle_core::{DType, Device, Tensor};
use impasto::style::colour::{PreserveColor, finish, prepare_style};
use impasto::style::gatys::{Adam, Lbfgs};
use impasto::style::loss::{self, StyleLoss};
use impasto::style::statistics::{self, Sums};

use crate::fixture;

fn load(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(name), &Device::Cpu).unwrap()
}

fn picture(tensor: &Tensor) -> RgbImage {
    let (height, width, _) = tensor.dims3().unwrap();
    RgbImage::from_raw(width as u32, height as u32, tensor.flatten_all().unwrap().to_vec1::<u8>().unwrap()).unwrap()
}

#[test]
fn colours_equal_numpy() {
    let reference = load("style/colour.safetensors");
    let of = |name: &str| picture(&reference[name]);
    let (content, style) = (of("content"), of("style"));
    let results = [
        ("coral", prepare_style(PreserveColor::Coral, &style, &content)),
        ("histogram", prepare_style(PreserveColor::Histogram, &style, &content)),
        ("luminance", finish(PreserveColor::Luminance, &of("painted"), &content)),
    ];
    for (name, ours) in results {
        let theirs = of(name);
        let worst = ours.as_raw().iter().zip(theirs.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert_eq!(worst, 0, "{name}");
    }
}

/// The largest difference in units of the reference's largest value.
fn relative(ours: &Tensor, theirs: &Tensor) -> f64 {
    let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (ours, theirs) = (values(ours), values(theirs));
    let most = theirs.iter().fold(0f32, |most, value| most.max(value.abs()));
    let worst = ours.iter().zip(&theirs).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(ours.len() == theirs.len() && worst.is_finite());
    f64::from(worst / most)
}

#[test]
fn losses_and_gradients_equal_torch() {
    let reference = load("style/loss.safetensors");
    let check = |name: &str, (value, gradient): (f64, Tensor)| {
        let theirs = f64::from(reference[&format!("{name}.value")].to_vec1::<f32>().unwrap()[0]);
        assert!((value / theirs - 1.0).abs() < 1e-5, "{name}: {value} for {theirs}");
        let error = relative(&gradient, &reference[&format!("{name}.gradient")]);
        assert!(error < 1e-5, "{name}: the gradient is off by {error:e}");
    };
    let features = &reference["features"];
    for (name, loss) in
        [("gram", StyleLoss::Gram), ("moments", StyleLoss::Moments), ("wasserstein", StyleLoss::Wasserstein)]
    {
        let target = loss.target(&Sums::of(&reference["style"], None, loss.order()).unwrap()).unwrap();
        check(name, target.of(features).unwrap());
    }
    check("content", loss::content(features, &reference["other"]).unwrap());
    check("total_variation", loss::total_variation(features).unwrap());
}

/// Weighted positions, in two pieces: the gradient of the whole against differences.
#[test]
fn guided_gradients_equal_finite_differences() {
    let reference = load("style/loss.safetensors");
    let features = &reference["features"];
    let weights = Tensor::rand(0f32, 1., (1, 1, 9, 7), &Device::Cpu).unwrap();
    for loss in [StyleLoss::Gram, StyleLoss::Moments, StyleLoss::Wasserstein] {
        let target = loss.target(&Sums::of(&reference["style"], None, loss.order()).unwrap()).unwrap();
        let value = |features: &Tensor| {
            let piece = |from: usize, len: usize| {
                let cut = |xs: &Tensor| xs.narrow(2, from, len).unwrap();
                Sums::of(&cut(features), Some(&cut(&weights)), loss.order()).unwrap()
            };
            let mut sums = piece(0, 4);
            sums.add(&piece(4, 5));
            target.compare(&sums).unwrap()
        };
        let gradient = value(features).1.to_features(features, Some(&weights)).unwrap();
        for _ in 0..3 {
            let step = (features.randn_like(0., 1.).unwrap() * 1e-2).unwrap();
            let change = value(&(features + &step).unwrap()).0 - value(&(features - &step).unwrap()).0;
            let predicted = (&gradient * &step).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let scale = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt() * 1e-2;
            let error = (change / 2.0 - f64::from(predicted)).abs() / f64::from(scale);
            assert!(error < 2e-2, "{loss:?}: {change} for {predicted}");
        }
    }
}

#[test]
fn blends_are_averages_and_nothing_is_refused() {
    let reference = load("style/loss.safetensors");
    let order = StyleLoss::Gram.order();
    let (one, other) = (&reference["style"], &reference["other"]);
    let sums = |xs: &Tensor| Sums::of(xs, None, order).unwrap();
    let blend = Sums::blend(&[(sums(one), 3.0), (sums(other), 1.0)]).unwrap();
    let target = StyleLoss::Gram.target(&blend).unwrap();
    let gram = |xs: &Tensor| statistics::gram(xs).unwrap();
    let expected = ((gram(one) * 0.75).unwrap() + (gram(other) * 0.25).unwrap()).unwrap();
    let difference = (gram(one) - expected).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((target.of(one).unwrap().0 / f64::from(difference) - 1.0).abs() < 1e-4);

    let nowhere = Tensor::zeros((1, 1, 9, 7), candle_core::DType::F32, &Device::Cpu).unwrap();
    let empty = Sums::of(other, Some(&nowhere), order).unwrap();
    assert!(StyleLoss::Gram.target(&empty).is_err());
    assert!(Sums::blend(&[]).is_err() && Sums::blend(&[(sums(one), 0.0)]).is_err());
    assert!(target.compare(&Sums::of(one, None, StyleLoss::Moments.order()).unwrap()).is_err());
}

#[test]
fn optimizers_equal_torch() {
    let reference = load("style/optimizer.safetensors");
    // The valley's gradient, written out.
    let slope = |xs: &Tensor| {
        let dtype = xs.dtype();
        let xs = xs.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        let mut slope = vec![0f64; xs.len()];
        for at in 0..xs.len() - 1 {
            let apart = xs[at + 1] - xs[at] * xs[at];
            slope[at + 1] += 2.0 * apart;
            slope[at] += -4.0 * apart * xs[at] - 0.02 * (1.0 - xs[at]);
        }
        Tensor::new(slope, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    };
    let (mut adam, mut lbfgs) = (Adam::new(0.02, (0.9, 0.99)), Lbfgs::new(1.0, 3));
    let check = |name: &str, dtype: DType, limit: f64, step: &mut dyn FnMut(&Tensor) -> Tensor| {
        let mut xs = reference["start"].to_dtype(dtype).unwrap();
        let path = reference[name].to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(path.len(), 30);
        for (index, theirs) in path.into_iter().enumerate() {
            xs = step(&xs);
            let ours = xs.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            let largest = theirs.iter().fold(0f64, |largest, x| largest.max(x.abs()));
            let error = ours.iter().zip(&theirs).fold(0f64, |error, (a, b)| error.max((a - b).abs())) / largest;
            assert!(error < limit, "{name}, step {index}: {error:e}");
        }
    };
    check("adam", DType::F32, 1e-4, &mut |xs| adam.step(xs, &slope(xs)).unwrap());
    // In double precision, since the valley enlarges the last bits: torch in single is 3e-3 from itself in double.
    check("lbfgs", DType::F64, 1e-8, &mut |xs| lbfgs.step(xs, &slope(xs)).unwrap());
}
