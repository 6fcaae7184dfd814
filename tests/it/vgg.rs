//! Perceptual networks against torch's modules and torch's gradients, with weights both sides make from a formula.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use impasto::nets::vgg::{Backbone, Kind};
use impasto::ops::Pooling;
use impasto::weights::Checkpoint;

use crate::depth::noise;

const KINDS: [(&str, Kind); 8] = [
    ("vgg16", Kind::Vgg16),
    ("vgg19", Kind::Vgg19),
    ("vgg16-caffe", Kind::Vgg16Caffe),
    ("vgg19-caffe", Kind::Vgg19Caffe),
    ("vgg-normalised", Kind::VggNormalised),
    ("hed", Kind::Hed),
    ("distilled3", Kind::Distilled(3)),
    ("distilled5", Kind::Distilled(5)),
];

fn expected() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(crate::fixture("vgg/vgg.safetensors"), &Device::Cpu).unwrap()
}

/// The formula of `tests/reference/vgg.py`.
pub(crate) fn formula(name: &str, shape: &[usize], factor: f32) -> Tensor {
    let values: Vec<f32> = noise(name, shape.iter().product()).into_iter().map(|value| value * factor).collect();
    Tensor::from_vec(values, shape, &crate::device()).unwrap()
}

/// A file of that kind, by its public names.
pub(crate) fn weights(kind: &str) -> HashMap<String, Tensor> {
    let text = std::fs::read(crate::fixture("vgg/vgg.json")).unwrap();
    let shapes: BTreeMap<String, BTreeMap<String, Vec<usize>>> = serde_json::from_slice(&text).unwrap();
    let expected = expected();
    let mut weights = HashMap::new();
    for (name, shape) in &shapes[kind] {
        let fan: usize = shape[1..].iter().product();
        let bias = name.replace("weight", "bias");
        let made = [
            (name.clone(), formula(&format!("{kind}/{name}"), shape, (6.0 / fan as f64).sqrt() as f32)),
            (bias.clone(), formula(&format!("{kind}/{bias}"), &shape[..1], 0.2)),
        ];
        for (name, tensor) in made {
            let kept = expected.get(&format!("{kind}/{name}"));
            weights.insert(name, kept.map_or(tensor, |kept| kept.to_device(&crate::device()).unwrap()));
        }
    }
    weights
}

fn vb(weights: HashMap<String, Tensor>) -> VarBuilder<'static> {
    VarBuilder::from_tensors(weights, DType::F32, &crate::device())
}

pub(crate) fn open(kind: &str, pooling: Pooling) -> Backbone {
    Backbone::open(pooling, vb(weights(kind))).unwrap()
}

fn picture(batch: usize, height: usize, width: usize) -> Tensor {
    (formula(&format!("{height}x{width}"), &[batch, 3, height, width], 0.5) + 0.5).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference in units of the largest expected value.
fn difference(got: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    let largest = values(expected).into_iter().fold(0f32, |a, b| a.max(b.abs()));
    // A layer of few channels may be silent altogether.
    let largest = largest.max(1e-6);
    let worst = values(got).into_iter().zip(values(expected)).map(|(a, b)| (a - b).abs());
    worst.fold(0f32, |a, b| if b > a || b.is_nan() { b } else { a }) / largest
}

#[test]
fn features_and_gradients_equal_torch() {
    let expected = expected();
    let mut cases = 0;
    for gradient in expected.keys().filter(|name| name.ends_with("/gradient")) {
        let case = gradient.strip_suffix("/gradient").unwrap();
        let [kind, pooling, size] = case.split('/').collect::<Vec<_>>()[..] else { panic!("{case}") };
        let (height, width) = size.split_once('x').unwrap();
        let (height, width) = (height.parse().unwrap(), width.parse().unwrap());
        let net = open(kind, if pooling == "max" { Pooling::Max } else { Pooling::Average });
        assert_eq!(net.kind(), KINDS.iter().find(|(name, _)| *name == kind).unwrap().1);
        let deep = format!("relu{}_1", kind.strip_prefix("distilled").unwrap_or("5"));
        let narrow = deep.replace("relu", "narrow");
        // The order of the question is the order of the answer.
        let (batch, layers) = if kind.starts_with("distilled") {
            (2, [deep.as_str(), "narrow2_1", "narrow1_2", &narrow, "relu2_1"])
        } else {
            (1, ["relu4_1", "relu1_1", "relu5_1", "relu2_1", "relu3_2"])
        };
        let activations = net.forward(&picture(batch, height, width), &layers).unwrap();
        let mut gradients = Vec::new();
        for (name, features) in layers.iter().zip(activations.taps()) {
            if let Some(expected) = expected.get(&format!("{case}/{name}")) {
                let worst = difference(features, expected);
                assert!(worst < 1e-5, "{case}/{name}: {worst:e}");
            }
            let factor = 1.0 / features.elem_count() as f32;
            gradients.push(Some(formula(&format!("{case}/{name}"), features.dims(), factor)));
        }
        assert!(
            values(&expected[gradient]).iter().any(|&value| value.abs() > 1e-4),
            "{case}: the fixture says nothing"
        );
        let worst = difference(&net.backward(&activations, &gradients).unwrap(), &expected[gradient]);
        eprintln!("{case}: the gradient differs by {worst:.1e} of its largest value");
        assert!(worst < 2e-5, "{case}: {worst:e}");
        cases += 1;
    }
    assert_eq!(cases, 6 * 2 * 2 + 2);
}

/// Every layer of every kind on its own: the slope of a weighted sum along a random direction.
#[test]
fn gradients_equal_finite_differences() {
    for (name, _) in KINDS {
        let net = open(name, Pooling::Average);
        let xs = picture(1, 33, 34);
        let direction = formula("direction", xs.dims(), 1.0);
        for layer in net.layers() {
            let activations = net.forward(&xs, &[layer]).unwrap();
            let weights = formula(layer, activations.taps()[0].dims(), 1.0);
            let gradient = net.backward(&activations, &[Some(weights.clone())]).unwrap();
            let slope = |a: &Tensor, b: &Tensor| -> f64 {
                values(a).iter().zip(values(b)).map(|(&a, b)| f64::from(a) * f64::from(b)).sum()
            };
            let along = slope(&gradient, &direction);
            let at = |by: f64| {
                slope(&net.features(&(&xs + (&direction * by).unwrap()).unwrap(), &[layer]).unwrap()[0], &weights)
            };
            // Piecewise linear: a small enough step crosses few corners, a larger one drowns rounding.
            let measured = (at(1e-4) - at(-1e-4)) / 2e-4;
            let scale = slope(&gradient, &gradient).sqrt() * slope(&direction, &direction).sqrt();
            assert!(
                (along - measured).abs() <= 2e-3 * scale,
                "{name} {layer}: {along} but measured {measured} ({scale})"
            );
        }
    }
}

#[test]
fn kinds_are_told_by_names_and_first_layer() {
    for (name, kind) in KINDS {
        let all = weights(name);
        let net = Backbone::open(Pooling::Max, vb(all.clone())).unwrap();
        assert_eq!(net.kind(), kind, "{name}");
        if let Kind::Vgg16 | Kind::Vgg19 = kind {
            // `features` saved by itself has no prefix.
            let bare = all.iter().map(|(name, tensor)| (name.replace("features.", ""), tensor.clone())).collect();
            assert_eq!(Backbone::open(Pooling::Max, vb(bare)).unwrap().kind(), kind);
            // Batch normalisation stands between.
            let mut normed = all.clone();
            normed.insert("features.1.weight".into(), Tensor::zeros(4, DType::F32, &crate::device()).unwrap());
            let error = Backbone::open(Pooling::Max, vb(normed)).unwrap_err();
            assert!(error.hint().unwrap().contains("impasto weights pull vgg19"), "{error}");
        }
    }
    assert!(Kind::detect(|_| None).is_none());
    assert!(Backbone::open(Pooling::Max, vb(HashMap::new())).is_err());
}

/// Caffe's weights with their first layer turned to RGB see the same picture.
#[test]
fn caffe_weights_turned_to_rgb_answer_the_same() {
    let mut turned = weights("vgg19-caffe");
    let first = turned["features.0.weight"].flip(&[1]).unwrap();
    turned.insert("features.0.weight".into(), first);
    let turned = Backbone::open(Pooling::Max, vb(turned)).unwrap();
    assert_eq!(turned.kind(), Kind::Vgg19Caffe);
    let xs = picture(1, 32, 32);
    let [a, b] =
        [open("vgg19-caffe", Pooling::Max), turned].map(|net| net.features(&xs, &["relu3_1"]).unwrap().remove(0));
    assert!(difference(&a, &b) < 1e-5);
}

#[test]
fn files_that_end_early_give_shallow_nets() {
    let shallow = weights("vgg-normalised")
        .into_iter()
        .filter(|(name, _)| name.split('.').next().unwrap().parse::<usize>().unwrap() <= 16)
        .collect();
    let net = Backbone::open(Pooling::Max, vb(shallow)).unwrap();
    assert_eq!(net.layers(), ["relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1"]);
    let error = net.forward(&picture(1, 32, 32), &["relu4_1"]).unwrap_err();
    assert!(error.hint().unwrap().contains("relu3_1"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let net = open("distilled5", Pooling::Max);
    let error = net.forward(&picture(1, 31, 100), &["relu5_1"]).unwrap_err();
    assert!(error.to_string().contains("100 x 31 pixels are too few for relu5_1"), "{error}");
    assert_eq!(error.hint(), Some("it needs at least 32 a side"));
    assert!(net.forward(&picture(1, 32, 32), &["relu5_1"]).is_ok());
    assert!(net.forward(&picture(1, 32, 32), &[]).is_err());
    let zeros = open("vgg16", Pooling::Max);
    assert!(zeros.forward(&picture(1, 1, 1), &["relu1_2"]).is_ok());
    assert!(zeros.forward(&picture(1, 1, 1), &["relu2_1"]).is_err());
    let grey = Tensor::zeros((1, 1, 8, 8), DType::F32, &crate::device()).unwrap();
    assert!(zeros.forward(&grey, &["relu1_2"]).is_err());

    let xs = picture(1, 8, 8);
    let activations = zeros.forward(&xs, &["relu1_1", "relu2_1"]).unwrap();
    assert!(zeros.backward(&activations, &[None]).is_err());
    assert!(zeros.backward(&activations, &[Some(xs.clone()), None]).is_err());
    let nothing = zeros.backward(&activations, &[None, None]).unwrap();
    assert_eq!((nothing.dims(), values(&nothing).iter().all(|&value| value == 0.0)), (xs.dims(), true));
    let mut misshapen = weights("vgg16");
    misshapen.insert("features.5.weight".into(), Tensor::zeros((6, 5, 3, 3), DType::F32, &crate::device()).unwrap());
    assert!(Backbone::open(Pooling::Max, vb(misshapen)).is_err());
}

/// The real files, where the developer has them.
#[test]
fn real_files_open() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/weights");
    let files =
        [("hed_vgg16", Kind::Hed, 13), ("wct16x_se3", Kind::Distilled(3), 8), ("wct16x_se5", Kind::Distilled(5), 18)];
    for (file, kind, layers) in files {
        let path = folder.join(format!("{file}.safetensors"));
        if !path.exists() {
            eprintln!("skipped: no {}", path.display());
            continue;
        }
        let checkpoint = Checkpoint::open(&path).unwrap();
        let detected = Kind::detect(|name| checkpoint.shape(name).map(<[usize]>::to_vec));
        assert_eq!(detected, Some(kind));
        let net = Backbone::open(Pooling::Max, checkpoint.var_builder(DType::F32, &crate::device())).unwrap();
        assert_eq!((net.kind(), net.layers().len()), (kind, layers));
        if kind == Kind::Hed {
            // HED descends from Caffe's VGG-16: under torch's numbering it must still be taken for one.
            let all = Checkpoint::open(&path).unwrap();
            let mut renamed = HashMap::new();
            for (name, number) in [("conv1_1", 0), ("conv1_2", 2), ("conv2_1", 5)] {
                for part in ["weight", "bias"] {
                    let tensor = all.tensor(&format!("{name}.{part}"), DType::F32, &crate::device()).unwrap();
                    renamed.insert(format!("features.{number}.{part}"), tensor);
                }
            }
            assert_eq!(Backbone::open(Pooling::Max, vb(renamed)).unwrap().kind(), Kind::Vgg16Caffe);
        }
    }
}
