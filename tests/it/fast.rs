//! Feed-forward style nets against torch and onnxruntime (tests/reference/fast.py).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use impasto::nets::adain::compact::{Compact, Config, StyleCode};
use impasto::nets::fast::{FastNet, Flavour};
use impasto::nets::strips::Rows;
use impasto::train::variables::Variables;
use impasto::weights::Checkpoint;

use crate::fixture::Fixture;
use crate::unet::{error, tensors};

fn weights(name: &str) -> HashMap<String, Tensor> {
    Fixture::open(&format!("fast/{name}")).weights()
}

fn net(weights: HashMap<String, Tensor>) -> impasto::Result<FastNet> {
    FastNet::new(VarBuilder::from_tensors(weights, DType::F32, &crate::device()))
}

/// Every picture of a fixture, painted.
fn assert_equal(net: &FastNet, name: &str, styles: &[(usize, f64)]) {
    let reference = tensors(&format!("fast/{name}.safetensors"));
    let blend = net.blend(styles).unwrap();
    let mut pictures = 0;
    for (key, picture) in &reference {
        let Some(size) = key.strip_prefix("inputs.") else { continue };
        let painted = net.forward(picture, &blend).unwrap();
        let difference = error(&painted, &reference[&format!("outputs.{size}")]);
        assert!(difference < 1e-4, "{name} at {size}: {difference:e}");
        pictures += 1;
    }
    assert!(pictures > 2);
}

#[test]
fn nets_of_pytorch_examples_equal_torch_whatever_wraps_their_names() {
    let plain = weights("examples");
    let paint = net(plain.clone()).unwrap();
    assert_eq!((paint.flavour(), paint.styles()), (Flavour::Examples, 1));
    assert_equal(&paint, "examples", &[(0, 1.0)]);
    let mut wrapped: HashMap<_, _> = plain.iter().map(|(name, xs)| (format!("module.{name}"), xs.clone())).collect();
    let mean = wrapped["module.in1.weight"].clone();
    wrapped.insert("module.in1.running_mean".into(), mean.clone());
    wrapped.insert("module.in1.running_var".into(), mean);
    assert_equal(&net(wrapped).unwrap(), "examples", &[(0, 1.0)]);
}

#[test]
fn a_folder_of_raw_variables_equals_tensorflows_arithmetic() {
    for path in ["fast/ml5", "fast/ml5/manifest.json"] {
        let checkpoint = Checkpoint::open(crate::fixture(path)).unwrap();
        let net = FastNet::new(checkpoint.var_builder(DType::F32, &crate::device())).unwrap();
        assert_eq!((net.flavour(), net.styles()), (Flavour::Lengstrom, 1));
        assert_equal(&net, "lengstrom", &[(0, 1.0)]);
    }
}

#[test]
fn styles_of_one_net_are_mixed_by_their_amounts() {
    let net = net(weights("conditional")).unwrap();
    assert_eq!((net.flavour(), net.styles()), (Flavour::Conditional, 3));
    assert_equal(&net, "conditional", &[(0, 0.25), (2, 0.75)]);
    assert_equal(&net, "conditional", &[(0, 1.0), (2, 2.0), (2, 1.0)]);
    for wrong in [&[][..], &[(3, 1.0)], &[(0, -1.0)], &[(0, 0.0)], &[(0, f64::NAN)], &[(0, 2.0), (1, -1.0)]] {
        assert!(net.blend(wrong).is_err(), "{wrong:?}");
    }
    // A batch is painted picture by picture.
    let blend = net.blend(&[(2, 1.0), (0, 0.5)]).unwrap();
    let pictures = Tensor::rand(0f32, 1.0, (2, 3, 20, 24), &crate::device()).unwrap();
    let both = net.forward(&pictures, &blend).unwrap();
    for row in 0..2 {
        let alone = net.forward(&pictures.narrow(0, row, 1).unwrap(), &blend).unwrap();
        assert!(error(&both.narrow(0, row, 1).unwrap(), &alone) < 1e-5);
    }
}

#[test]
fn a_net_of_ours_has_a_bias_in_place_of_the_last_norm() {
    assert_equal(&net(weights("trained")).unwrap(), "trained", &[(0, 1.0)]);
}

/// The real 26-style net, where `IMPASTO_MULTISTYLE` names it (converted by tests/reference/fast.py).
#[test]
fn the_26_style_net_equals_onnxruntime() {
    let Some(path) = std::env::var_os("IMPASTO_MULTISTYLE") else {
        eprintln!("IMPASTO_MULTISTYLE is not set: not run");
        return;
    };
    let net = FastNet::new(Checkpoint::open(path).unwrap().var_builder(DType::F32, &crate::device())).unwrap();
    assert_eq!(net.styles(), 26);
    let reference = tensors("fast/multistyle26.safetensors");
    for (name, styles) in [("3", &[(3, 1.0)][..]), ("5-17", &[(5, 0.25), (17, 0.75)])] {
        let painted = net.forward(&reference["input"], &net.blend(styles).unwrap()).unwrap();
        let difference = error(&painted, &reference[&format!("output.{name}")]);
        eprintln!("styles {name}: {difference:e}");
        assert!(difference < 1e-4, "styles {name}: {difference:e}");
    }
}

#[test]
fn tiny_pictures_are_painted_too() {
    for name in ["examples", "conditional"] {
        let net = net(weights(name)).unwrap();
        let blend = net.blend(&[(0, 1.0)]).unwrap();
        for (height, width) in [(1, 1), (1, 40), (7, 3), (5, 18)] {
            let picture = Tensor::rand(0f32, 1.0, (1, 3, height, width), &crate::device()).unwrap();
            let painted = net.forward(&picture, &blend).unwrap();
            assert_eq!(painted.dims(), picture.dims());
            assert!(painted.sum_all().unwrap().to_scalar::<f32>().unwrap().is_finite());
        }
        let none = Tensor::zeros((1, 3, 0, 4), DType::F32, &crate::device()).unwrap();
        assert!(net.forward(&none, &blend).is_err());
        assert!(net.forward(&Tensor::zeros((1, 4, 9, 9), DType::F32, &crate::device()).unwrap(), &blend).is_err());
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let cpu = Device::Cpu;
    let with = |name: &str, shape: &[usize]| {
        let mut weights = weights("conditional");
        weights.insert(name.to_owned(), Tensor::zeros(shape, DType::F32, &cpu).unwrap());
        net(weights)
    };
    for (name, shape) in [
        ("contract.1.w", &[4, 5, 3, 3][..]),
        ("contract.1.w", &[4, 3, 2, 2]),
        ("contract.1.w", &[4, 3, 3]),
        ("contract.1.w", &[0, 3, 3, 3]),
        ("contract.1.w", &[4, 3, 33, 33]),
        ("contract.1.norm.gamma", &[4]),
        ("contract.1.norm.gamma", &[2, 4]),
        ("contract.1.norm.beta", &[3, 5]),
        ("expand.2.w", &[4, 4, 9, 9]),
    ] {
        assert!(with(name, shape).is_err(), "{name} {shape:?}");
    }
    let mut missing = weights("examples");
    missing.remove("res1.conv2.conv2d.bias");
    assert!(net(missing).is_err());
    assert!(net(HashMap::new()).unwrap_err().hint().is_some());
}

#[test]
fn a_dump_that_contradicts_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |manifest: &str| {
        std::fs::write(folder.path().join("manifest.json"), manifest).unwrap();
        Checkpoint::open(folder.path())
    };
    std::fs::write(folder.path().join("a"), [0u8; 8]).unwrap();
    std::fs::write(folder.path().join("empty"), []).unwrap();
    assert!(open(r#"{"x": {"filename": "a", "shape": [2]}}"#).is_ok());
    for wrong in [
        r#"{"x": {"filename": "a", "shape": [3]}}"#,
        r#"{"x": {"filename": "a", "shape": [18446744073709551615, 18446744073709551615]}}"#,
        r#"{"x": {"filename": "a", "shape": [2]}, "y": {"filename": "a", "shape": [2]}}"#,
        r#"{"x": {"filename": "b", "shape": [2]}}"#,
        r#"{"x": {"filename": "empty", "shape": [0]}}"#,
        r#"{"x": {"filename": "../a", "shape": [2]}}"#,
        r#"{"x": {"filename": ".", "shape": [2]}}"#,
        r#"{"x": {"filename": "a"}}"#,
        "{}",
    ] {
        assert!(open(wrong).is_err(), "{wrong}");
    }
}

/// The arbitrary-style net that such nets begin with, a tiny one.
fn any_style() -> Compact {
    let config = Config { painter: [4, 6, 8], blocks: 1, style: [4, 4, 6, 8], hidden: 8 };
    let variables = Variables::new(3, None, &crate::device());
    Compact::new(&config, variables.var_builder()).unwrap()
}

#[test]
fn a_net_learns_by_heart_from_the_net_for_any_style_and_can_be_trained() {
    let any = any_style();
    let random = |shape: (usize, usize, usize, usize)| Tensor::rand(0f32, 1.0, shape, &crate::device()).unwrap();
    let (painting, photo) = (random((1, 3, 30, 24)), random((2, 3, 21, 26)));
    let tensors = FastNet::learned_from(&any, &painting).unwrap();
    let begun = net(tensors.clone()).unwrap();
    assert_eq!((begun.flavour(), begun.styles()), (Flavour::ByHeart, 1));
    let blend = begun.blend(&[(0, 1.0)]).unwrap();
    let wanted = any.forward(&photo, &any.encode_style(&painting).unwrap(), 1.0).unwrap();
    assert_eq!(error(&begun.forward(&photo, &blend).unwrap(), &wanted), 0.0);

    let variables = Variables::holding(tensors.clone(), &crate::device()).unwrap();
    let net_in_training = FastNet::new(variables.var_builder()).unwrap();
    let painted = net_in_training.forward(&photo, &blend).unwrap();
    let gradients = (painted - photo).unwrap().sqr().unwrap().mean_all().unwrap().backward().unwrap();
    for (name, var) in &variables.all() {
        let gradient = gradients.get(var);
        // The colours are the painting's, and stay so.
        assert_eq!(gradient.is_none(), name == "palette", "{name}");
        let sum = |gradient: &Tensor| gradient.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(gradient.is_none_or(|gradient| sum(gradient) > 0.0 && sum(gradient).is_finite()), "{name}");
    }

    for (name, shape) in [("code", &[1, 7][..]), ("code", &[2, 50]), ("palette", &[1, 3]), ("down.1.weight", &[6])] {
        let mut broken = tensors.clone();
        broken.insert(name.into(), Tensor::zeros(shape, DType::F32, &crate::device()).unwrap());
        assert!(net(broken).is_err(), "{name} {shape:?}");
    }
}

/// Two styles in one net, mixed inside: their codes are, not their pictures.
#[test]
fn styles_known_by_heart_are_mixed_as_codes() {
    let any = any_style();
    let painting = |seed: f32| {
        let xs = Tensor::rand(0f32, 1.0, (1, 3, 20, 20), &crate::device()).unwrap();
        xs.affine(1.0 - f64::from(seed), f64::from(seed) / 2.0).unwrap()
    };
    let (one, two) = (painting(0.1), painting(0.5));
    let mut tensors = FastNet::learned_from(&any, &one).unwrap();
    let other = FastNet::learned_from(&any, &two).unwrap();
    for name in ["code", "palette"] {
        let both = Tensor::cat(&[&tensors[name], &other[name]], 0).unwrap();
        tensors.insert(name.into(), both);
    }
    let both = net(tensors).unwrap();
    let photo = Tensor::rand(0f32, 1.0, (1, 3, 18, 16), &crate::device()).unwrap();
    let painted = both.forward(&photo, &both.blend(&[(0, 3.0), (1, 1.0)]).unwrap()).unwrap();
    let (one, two) = (any.encode_style(&one).unwrap(), any.encode_style(&two).unwrap());
    let code = StyleCode::blend(&[(one, 3.0), (two, 1.0)]).unwrap();
    assert!(error(&painted, &any.forward(&photo, &code, 1.0).unwrap()) < 1e-5);
}

#[test]
fn what_a_file_says_about_itself_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("style.safetensors");
    let xs = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let about = HashMap::from([("style".to_owned(), "waves".to_owned())]);
    safetensors::serialize_to_file([("xs", &xs)], Some(about), &path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.metadata().get("style").map(String::as_str), Some("waves"));
    assert!(checkpoint.subset("x").metadata().contains_key("style"));
}

/// Painted strip by strip, strips as short as they get.
fn in_strips(net: &FastNet, picture: &Tensor, pixels: usize) -> Tensor {
    let (_, _, height, width) = picture.dims4().unwrap();
    let read = |rows: std::ops::Range<usize>| Ok(picture.narrow(2, rows.start, rows.len())?.contiguous()?);
    let (mut parts, mut next, mut strips) = (Vec::new(), 0, (0, 0));
    let mut on_rows = |first: usize, rows: Tensor| {
        assert_eq!(first, next);
        next += rows.dim(2).unwrap();
        parts.push(rows);
        Ok(())
    };
    let mut on_strip = |done, total| {
        strips = (done, total);
        Ok(())
    };
    let rows = Rows { height, width, pixels, read: &read };
    net.forward_rows(&rows, &net.blend(&[(0, 1.0)]).unwrap(), &mut on_rows, &mut on_strip).unwrap();
    assert!(strips.0 == strips.1 && strips.0 > 8, "{strips:?}");
    Tensor::cat(&parts, 2).unwrap()
}

/// Heights of every remainder, so that strips meet odd and even sides, and the shortest rests.
#[test]
fn strips_come_to_the_same_as_the_whole() {
    let lengstrom = Checkpoint::open(crate::fixture("fast/ml5")).unwrap();
    let nets = [
        net(weights("examples")).unwrap(),
        FastNet::new(lengstrom.var_builder(DType::F32, &crate::device())).unwrap(),
        net(weights("conditional")).unwrap(),
        net(weights("trained")).unwrap(),
        net(FastNet::learned_from(&any_style(), &Tensor::rand(0f32, 1.0, (1, 3, 30, 30), &crate::device()).unwrap())
            .unwrap())
        .unwrap(),
    ];
    for net in nets {
        for (height, width) in [(96, 17), (97, 20), (98, 19), (99, 18), (130, 33)] {
            let picture = Tensor::rand(0f32, 1.0, (1, 3, height, width), &crate::device()).unwrap();
            let whole = net.forward(&picture, &net.blend(&[(0, 1.0)]).unwrap()).unwrap();
            // One pixel's worth of memory sends everything to a file, many keep it.
            for pixels in [1, 90] {
                let difference = error(&in_strips(&net, &picture, pixels), &whole);
                assert!(difference < 1e-4, "{:?} {height} x {width}: {difference:e}", net.flavour());
            }
        }
    }
}
