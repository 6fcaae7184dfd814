//! Painting by optimisation, on a tiny network with random weights.

use std::collections::HashMap;

use ::image::{GrayImage, Luma, Rgb, RgbImage};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use impasto::nets::vgg::{Backbone, Kind};
use impasto::ops::Pooling;
use impasto::rng::TorchRng;
use impasto::style::gatys::{Init, Optimizer, Painted, Region, Settings, Step, resume, run};
use impasto::style::loss::StyleLoss;
use impasto::{Error, Result};

/// VGG-16 with a few channels a block.
fn backbone() -> Backbone {
    let mut rng = TorchRng::new(1);
    let mut weights = HashMap::new();
    let mut inputs = 3;
    let names = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21];
    for (name, outputs) in names.into_iter().zip([4, 4, 6, 6, 8, 8, 8, 10, 10, 10]) {
        let spread = (2.0 / (9 * inputs) as f64).sqrt();
        let weight = (rng.normal(&[outputs, inputs, 3, 3]).unwrap() * spread).unwrap();
        weights.insert(format!("features.{name}.weight"), weight);
        weights.insert(format!("features.{name}.bias"), (rng.normal(&[outputs]).unwrap() * 0.1).unwrap());
        inputs = outputs;
    }
    let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    Backbone::new(Kind::Vgg16, Pooling::Average, vb).unwrap()
}

fn photo(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 2) as u8, (y * 3) as u8, ((x ^ y) * 2) as u8]))
}

fn painting() -> RgbImage {
    RgbImage::from_fn(70, 60, |x, y| if (x / 5 + y / 7) % 2 == 0 { Rgb([230, 180, 40]) } else { Rgb([20, 40, 120]) })
}

fn short() -> Settings {
    Settings { iterations: 4, smallest: 0, ..Settings::default() }
}

fn paint(content: &RgbImage, settings: &Settings) -> Result<Painted> {
    run(&backbone(), content, &[(painting(), 1.0)], &[], settings, &mut |_| Ok(()))
}

fn apart(left: &RgbImage, right: &RgbImage) -> u8 {
    assert_eq!(left.dimensions(), right.dimensions());
    left.as_raw().iter().zip(right.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn the_loss_falls_with_every_loss_and_optimizer() {
    for style_loss in [StyleLoss::Gram, StyleLoss::Moments, StyleLoss::Wasserstein] {
        for optimizer in [Optimizer::Adam, Optimizer::Lbfgs] {
            let settings = Settings { iterations: 12, style_loss, optimizer, average: 0.0, ..short() };
            let mut losses = Vec::new();
            let mut keep = |step: &Step<'_>| {
                losses.push(step.losses.total());
                Ok(())
            };
            let painted = run(&backbone(), &photo(48, 40), &[(painting(), 1.0)], &[], &settings, &mut keep).unwrap();
            let end = painted.losses.total();
            assert!(
                end < 0.9 * losses[0] && painted.diverged.is_none(),
                "{style_loss:?} {optimizer:?}: {losses:?} {end}"
            );
            assert_eq!(losses.len(), 12);
        }
    }
}

/// Tiles take part in the same losses: only rounding differs.
#[test]
fn tiles_leave_no_trace() {
    let content = photo(210, 130);
    let regions = || {
        let left = GrayImage::from_fn(21, 13, |x, _| Luma([255 - (x * 12) as u8]));
        let right = GrayImage::from_fn(21, 13, |x, _| Luma([(x * 12) as u8]));
        vec![Region { content: left, style: 0, within: None }, Region { content: right, style: 1, within: None }]
    };
    let styles = [(painting(), 1.0), (photo(230, 80), 1.0)];
    for regions in [Vec::new(), regions()] {
        let paint = |tile: u32| {
            let settings = Settings { tile, average: 0.0, learning_rate: Some(0.02), ..short() };
            run(&backbone(), &content, &styles, &regions, &settings, &mut |_| Ok(())).unwrap()
        };
        let (whole, tiled) = (paint(768), paint(64));
        let ratio = tiled.losses.total() / whole.losses.total();
        assert!((ratio - 1.0).abs() < 1e-4, "{ratio}");
        // Adam's first steps have the gradient's sign; where that is almost nothing, rounding decides.
        let moved =
            whole.picture.as_raw().iter().zip(tiled.picture.as_raw()).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        assert!(moved * 200 < whole.picture.as_raw().len(), "{moved} values differ");
    }
}

#[test]
fn interrupted_paintings_end_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let (content, styles, net) = (photo(64, 48), [(painting(), 1.0)], backbone());
    for optimizer in [Optimizer::Adam, Optimizer::Lbfgs] {
        let settings =
            Settings { iterations: 5, coarse_iterations: 4, smallest: 40, optimizer, init: Init::Noise, ..short() };
        let whole = run(&net, &content, &styles, &[], &settings, &mut |_| Ok(())).unwrap();
        for stop in [2, 4, 7] {
            let mut halt = |step: &Step<'_>| {
                if step.done == stop {
                    step.save(&path)?;
                    return Err(Error::Interrupted);
                }
                Ok(())
            };
            let stopped = run(&net, &content, &styles, &[], &settings, &mut halt);
            assert!(matches!(stopped, Err(Error::Interrupted)));
            let rest = resume(&path, &net, &content, &styles, &[], &settings, &mut |_| Ok(())).unwrap();
            assert_eq!(rest.picture, whole.picture, "{optimizer:?} stopped after {stop}");
        }
        // Other settings or pictures are another painting.
        let other = Settings { seed: 1, ..settings.clone() };
        assert!(resume(&path, &net, &content, &styles, &[], &other, &mut |_| Ok(())).is_err());
        assert!(resume(&path, &net, &content, &[(painting(), 2.0)], &[], &settings, &mut |_| Ok(())).is_err());
    }
    std::fs::write(&path, b"no tensors at all").unwrap();
    assert!(resume(&path, &net, &content, &styles, &[], &short(), &mut |_| Ok(())).is_err());
}

#[test]
fn a_loss_that_runs_away_leaves_the_last_good_picture() {
    let settings =
        Settings { iterations: 20, optimizer: Optimizer::Lbfgs, learning_rate: Some(1e30), average: 0.0, ..short() };
    let content = photo(40, 40);
    let painted = paint(&content, &settings).unwrap();
    assert!(painted.diverged.is_some() && painted.losses.total().is_finite());
    assert_eq!(painted.picture, content, "the first picture was the last good one");
}

#[test]
fn a_region_is_painted_after_its_own_painting() {
    let (red, blue) =
        (RgbImage::from_pixel(40, 40, Rgb([220, 30, 30])), RgbImage::from_pixel(40, 40, Rgb([30, 30, 220])));
    let half = |left: bool| GrayImage::from_fn(8, 8, |x, _| Luma([if (x < 4) == left { 255 } else { 0 }]));
    let region = |left, style| Region { content: half(left), style, within: None };
    let settings = Settings { iterations: 40, content_weight: 0.0, total_variation: 0.0, feather: 4.0, ..short() };
    let content = RgbImage::from_pixel(64, 48, Rgb([120, 120, 120]));
    let styles = [(red, 1.0), (blue, 1.0)];
    let regions = [region(true, 0), region(false, 1)];
    let painted = run(&backbone(), &content, &styles, &regions, &settings, &mut |_| Ok(())).unwrap().picture;
    let (left, right) = (painted.get_pixel(10, 24).0, painted.get_pixel(54, 24).0);
    assert!(left[0] > left[2] && right[2] > right[0], "{left:?} {right:?}");
    assert!(run(&backbone(), &content, &styles[..1], &regions, &settings, &mut |_| Ok(())).is_err());
}

#[test]
fn odd_pictures_and_settings() {
    let settings = Settings { iterations: 2, ..short() };
    // Too few pixels for the deepest layer; no pixels; a style that is the photo itself.
    assert!(matches!(paint(&photo(1, 1), &settings), Err(Error::Usage { .. })));
    assert!(paint(&RgbImage::new(0, 0), &settings).is_err());
    let same = run(&backbone(), &photo(40, 30), &[(photo(40, 30), 1.0)], &[], &settings, &mut |_| Ok(())).unwrap();
    assert!(same.losses.total().is_finite() && same.diverged.is_none());
    assert!(run(&backbone(), &photo(40, 30), &[], &[], &settings, &mut |_| Ok(())).is_err());
    assert!(run(&backbone(), &photo(40, 30), &[(painting(), 0.0)], &[], &settings, &mut |_| Ok(())).is_err());
    for wrong in [
        Settings { iterations: 0, ..short() },
        Settings { style_weight: f64::NAN, ..short() },
        Settings { average: 1.0, ..short() },
        Settings { tile: 8, ..short() },
        Settings { style_layers: [("relu9_1".to_owned(), 1.0)].into(), ..short() },
    ] {
        assert!(matches!(paint(&photo(40, 30), &wrong), Err(Error::Usage { .. })));
    }
    let noise = |seed| {
        let settings = Settings { init: Init::Noise, seed, ..settings.clone() };
        paint(&photo(40, 30), &settings).unwrap().picture
    };
    assert_eq!(noise(3), noise(3));
    assert!(apart(&noise(3), &noise(4)) > 0);
    let read: Settings = serde_json::from_str(r#"{"iterations": 7, "style-loss": "gram"}"#).unwrap();
    assert_eq!(read, Settings { iterations: 7, style_loss: StyleLoss::Gram, ..Settings::default() });
}

#[test]
fn odd_sides_stay() {
    let painted = paint(&photo(33, 47), &Settings { iterations: 2, ..short() }).unwrap();
    assert_eq!(painted.picture.dimensions(), (33, 47));
}
