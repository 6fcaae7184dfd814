//! Metrics against the programs they come from: see `tests/reference/metrics.py`, whose pictures and weights are made here
//! again from the same arithmetic.
//!
//! Tolerances: what is computed in double precision on both sides agrees to 1e-9 of itself. Nets compute in single here and
//! in double there, so their metrics agree to 1e-5 of themselves (CFSD of these narrow nets, which adds up thousands of
//! parts of either sign to a millionth, to 5e-5). Edges are counted, so one pixel on the other side of HED's threshold shows:
//! 1e-3.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use ::image::{Rgb, RgbImage, imageops};
use candle_core::{Device, Tensor};
use impasto::Error;
use impasto::metrics::{
    Better, Metric, Nets, Subject, Suite, With, cfsd, check_gates, edges, frechet, histogram, ms_ssim, ssim,
};
use impasto::nets::hed::Hed;
use impasto::nets::inception::{Flavour, Inception};
use impasto::pipeline::{SuiteOptions, open_suite};
use impasto::progress::Progress;
use impasto::weights::Checkpoint;
use serde_json::Value;

use crate::depth::noise;
use crate::program::{Place, refused, run};
use crate::vgg::formula;

const CASES: [&str; 4] = ["small", "odd", "even", "large"];

fn document() -> Value {
    serde_json::from_slice(&std::fs::read(crate::fixture("metrics/metrics.json")).unwrap()).unwrap()
}

fn source(name: &str) -> RgbImage {
    ::image::open(crate::fixture(&format!("image/{name}.png"))).unwrap().into_rgb8()
}

/// Enlarges by repeating, each period mirrored.
fn tile(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let mirrored = |at: u32, side: u32| {
        let at = at % (2 * side);
        if at < side { at } else { 2 * side - 1 - at }
    };
    let (w, h) = picture.dimensions();
    RgbImage::from_fn(width, height, |x, y| *picture.get_pixel(mirrored(x, w), mirrored(y, h)))
}

/// A picture that has kept some of the photo and taken on some of the painting.
fn paint(photo: &RgbImage, style: &RgbImage) -> RgbImage {
    let (width, height) = photo.dimensions();
    let style = tile(style, width, height);
    RgbImage::from_fn(width, height, |x, y| {
        let moved = photo.get_pixel((x + width - 2) % width, (y + height - 1) % height);
        let (photo, style) = (photo.get_pixel(x, y), style.get_pixel(x, y));
        let value = |c: usize| 4 * u32::from(photo[c]) + 3 * u32::from(style[2 - c]) + u32::from(moved[c]);
        Rgb([0, 1, 2].map(|c| (value(c) / 8) as u8))
    })
}

/// Photo, painting and painted picture.
fn case(name: &str) -> [RgbImage; 3] {
    let (photo, style) = match name {
        "small" => (
            imageops::crop_imm(&source("chelsea"), 30, 40, 64, 48).to_image(),
            imageops::crop_imm(&source("coffee"), 0, 0, 56, 40).to_image(),
        ),
        "odd" => (source("coffee"), source("chelsea")),
        "even" => (tile(&source("astronaut"), 192, 192), source("rocket")),
        _ => (tile(&source("rocket"), 301, 163), source("astronaut")),
    };
    let painted = paint(&photo, &style);
    [photo, style, painted]
}

fn subject(pictures: &[RgbImage; 3]) -> Subject<'_> {
    let [photo, style, painted] = pictures;
    Subject { photo: Some(photo), style: Some(style), painted, prompt: None }
}

/// The weights of a net whose names and shapes the fixture holds, by the reference's formula.
fn filled(shapes: &Value, seed: &str) -> HashMap<String, Tensor> {
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_value(shapes.clone()).unwrap();
    let made = shapes.into_iter().map(|(name, shape)| {
        let mut values = noise(&format!("{seed}/{name}"), shape.iter().product());
        let norm = name.contains(".bn.weight") || name.contains("norm") && name.ends_with("weight");
        let (scale, centre) = if name.ends_with("running_var") {
            (0.3, 1.0)
        } else if shape.len() > 1 {
            ((6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32, 0.0)
        } else {
            (0.1, if norm { 1.0 } else { 0.0 })
        };
        for value in &mut values {
            *value = *value * scale + centre;
            if name.starts_with("lin") {
                *value = value.abs();
            }
        }
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    });
    made.collect()
}

fn hed_weights(document: &Value) -> HashMap<String, Tensor> {
    let mut weights = crate::vgg::weights("hed");
    for (number, width) in [4, 6, 8, 8, 8].into_iter().enumerate() {
        let name = format!("dsn{}", number + 1);
        let factor = (6.0 / width as f64).sqrt() as f32;
        let weight = formula(&format!("hed/{name}.weight"), &[1, width, 1, 1], factor);
        weights.insert(format!("{name}.weight"), weight);
        weights.insert(format!("{name}.bias"), formula(&format!("hed/{name}.bias"), &[1], 0.2));
    }
    let fuse = formula("hed/fuse.weight", &[1, 5, 1, 1], (6.0f64 / 5.0).sqrt() as f32 * 0.02);
    weights.insert("fuse.weight".to_owned(), fuse);
    let bias = document["nets"]["hed-fuse-bias"].as_f64().unwrap() as f32;
    weights.insert("fuse.bias".to_owned(), Tensor::new(&[bias], &crate::device()).unwrap());
    weights
}

fn save(place: &Place, name: &str, weights: HashMap<String, Tensor>) -> PathBuf {
    let path = place.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    candle_core::safetensors::save(&weights, &path).unwrap();
    path
}

/// A CLIP folder as transformers writes it.
fn clip_folder(place: &Place, document: &Value) -> PathBuf {
    let folder = save(place, "clip/model.safetensors", filled(&document["nets"]["clip-shapes"], "clip"));
    let folder = folder.parent().unwrap().to_path_buf();
    std::fs::write(folder.join("config.json"), document["nets"]["clip"].to_string()).unwrap();
    for file in std::fs::read_dir(crate::fixture("tiny/model/tokenizer")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    folder
}

fn open(options: &SuiteOptions) -> Suite {
    open_suite(options, &crate::device()).unwrap()
}

fn close(name: &str, found: f64, expected: f64, relative: f64, absolute: f64) {
    let apart = (found - expected).abs();
    eprintln!("{name}: {found} for {expected}, {:.1e} of it apart", apart / expected.abs());
    assert!(apart <= absolute + relative * expected.abs(), "{name}: {found} instead of {expected}");
}

/// Every expected value of these names is measured, and right.
fn hold(suite: &Suite, prefix: &str, names: &[&str], relative: f64, absolute: f64) {
    let document = document();
    let mut held = 0;
    for case_name in CASES {
        let pictures = case(case_name);
        let found: HashMap<_, _> = suite.measure(&subject(&pictures)).unwrap().into_iter().collect();
        for name in names {
            let Some(expected) = document["results"][case_name][&format!("{prefix}{name}")].as_f64() else { continue };
            close(&format!("{case_name} {name}"), found[name], expected, relative, absolute);
            held += 1;
        }
    }
    assert!(held >= 2 * names.len(), "the fixture says too little");
}

#[test]
fn what_needs_no_net_equals_its_references() {
    let suite = open(&SuiteOptions::default());
    hold(&suite, "", &["histogram-distance"], 1e-7, 0.0);
    hold(&suite, "", &["ssim", "ms-ssim"], 1e-9, 0.0);
    hold(&suite, "", &["edge-f-canny"], 1e-12, 0.0);
}

#[test]
fn content_style_gram_and_cfsd_equal_torch() {
    let place = Place::new();
    let names = ["content-distance", "style-distance", "gram-relu1_1", "gram-relu2_1", "gram-relu3_1", "gram-relu4_1"];
    for (kind, own, foreign) in [("vgg19", "cfsd", "cfsd-variant"), ("distilled5", "cfsd-variant", "cfsd")] {
        let path = save(&place, &format!("{kind}.safetensors"), crate::vgg::weights(kind));
        let suite = open(&SuiteOptions { backbone: Some(path), ..SuiteOptions::default() });
        hold(&suite, &format!("{kind}/"), &names, 1e-5, 0.0);
        hold(&suite, &format!("{kind}/"), &[own], 5e-5, 0.0);
        assert!(suite.metrics().iter().all(|metric| metric.name != foreign));
        assert_eq!(suite.absent().iter().any(|absent| absent.metric.name == "cfsd"), own == "cfsd-variant");
    }
    let features = |name: &str| {
        let values = noise(&format!("cfsd/{name}"), 8 * 12 * 16).into_iter().map(|value| value * 12.0).collect();
        Tensor::from_vec(values, (1, 8, 12, 16), &crate::device()).unwrap()
    };
    let found = cfsd::distance(&features("painted"), &features("photo")).unwrap();
    close("cfsd", found, document()["cfsd"].as_f64().unwrap(), 1e-7, 0.0);
    assert_eq!(cfsd::distance(&features("photo"), &features("photo")).unwrap(), 0.0);
}

#[test]
fn hed_and_its_edges_equal_the_reference() {
    let (place, document) = (Place::new(), document());
    let path = save(&place, "hed.safetensors", hed_weights(&document));
    let vb = Checkpoint::open(&path).unwrap().var_builder(candle_core::DType::F32, &crate::device());
    let [_, _, painted] = case("small");
    let likely = Hed::new(vb).unwrap().edges(&impasto::image::tensor::to_unit(&painted).unwrap()).unwrap();
    let likely =
        likely.squeeze(0).unwrap().squeeze(0).unwrap().to_device(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
    let expected: Vec<Vec<f32>> = serde_json::from_value(document["hed"].clone()).unwrap();
    assert_eq!((expected.len(), expected[0].len()), (12, 16));
    for (y, row) in expected.iter().enumerate() {
        for (x, &expected) in row.iter().enumerate() {
            let found = likely[4 * y][4 * x];
            assert!((found - expected).abs() < 1e-5, "{x}, {y}: {found} instead of {expected}");
        }
    }
    hold(&open(&SuiteOptions { hed: Some(path), ..SuiteOptions::default() }), "", &["edge-f-hed"], 1e-3, 0.0);
}

#[test]
fn lpips_equals_the_package() {
    let (place, document) = (Place::new(), document());
    for flavour in ["lpips-alex", "lpips-vgg"] {
        let all = filled(&document["nets"][flavour], flavour);
        let path = save(&place, &format!("{flavour}.safetensors"), all.clone());
        let suite = open(&SuiteOptions { lpips: Some(path.clone()), ..SuiteOptions::default() });
        hold(&suite, "", &[flavour], 1e-6, 0.0);

        // The fitted layers alone, on the network in a file of torchvision's.
        let (fitted, trunk): (HashMap<_, _>, HashMap<_, _>) =
            all.into_iter().partition(|(name, _)| name.starts_with("lin"));
        let numbered = |name: String| format!("features.{}", name.splitn(3, '.').last().unwrap());
        let trunk = trunk.into_iter().map(|(name, tensor)| (numbered(name), tensor)).collect();
        let apart = open(&SuiteOptions {
            lpips: Some(save(&place, "fitted.safetensors", fitted)),
            lpips_trunk: Some(save(&place, "trunk.safetensors", trunk)),
            ..SuiteOptions::default()
        });
        let pictures = case("odd");
        assert_eq!(suite.measure(&subject(&pictures)).unwrap(), apart.measure(&subject(&pictures)).unwrap());
        // To the photo itself there is no difference, and the other way round there is the same.
        let [photo, _, painted] = &pictures;
        let of = |photo, painted| {
            let subject = Subject { photo: Some(photo), style: None, painted, prompt: None };
            suite.measure(&subject).unwrap().into_iter().find(|(name, _)| *name == flavour).unwrap().1
        };
        assert_eq!(of(photo, photo), 0.0);
        assert!((of(photo, painted) - of(painted, photo)).abs() < 1e-7);
    }
    // Layers fitted to the one do not go on the other.
    let mixed = SuiteOptions {
        lpips: Some(save(&place, "fitted.safetensors", fitted_layers(&document, "lpips-alex"))),
        lpips_trunk: Some(save(&place, "vgg.safetensors", crate::vgg::weights("vgg19"))),
        ..SuiteOptions::default()
    };
    let error = open_suite(&mixed, &crate::device()).unwrap_err();
    assert!(error.to_string().contains("VGG-19 is not the network that LPIPS was fitted to"), "{error}");
    let alone = SuiteOptions { lpips_trunk: None, ..mixed };
    assert!(open_suite(&alone, &crate::device()).unwrap_err().hint().unwrap().contains("--lpips-trunk"));
}

fn fitted_layers(document: &Value, flavour: &str) -> HashMap<String, Tensor> {
    filled(&document["nets"][flavour], flavour).into_iter().filter(|(name, _)| name.starts_with("lin")).collect()
}

#[test]
fn clip_equals_transformers() {
    let (place, document) = (Place::new(), document());
    let folder = clip_folder(&place, &document);
    let suite = open(&SuiteOptions { clip: Some(folder.clone()), ..SuiteOptions::default() });
    hold(&suite, "", &["clip-photo", "clip-style"], 0.0, 1e-6);
    let pictures = case("odd");
    for (number, prompt) in document["prompts"].as_array().unwrap().iter().enumerate() {
        let subject = Subject { prompt: prompt.as_str(), ..subject(&pictures) };
        let found = suite.measure(&subject).unwrap();
        let found = found.iter().find(|(name, _)| *name == "clip-text").unwrap().1;
        close(
            "clip-text",
            found,
            document["results"]["odd"][format!("clip-text/{number}")].as_f64().unwrap(),
            0.0,
            1e-6,
        );
    }

    // Without its text half it compares pictures only, and says so.
    let weights = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    save(&place, "clip/model.safetensors", weights.into_iter().filter(|(name, _)| !name.contains("text")).collect());
    let suite = open(&SuiteOptions { clip: Some(folder), ..SuiteOptions::default() });
    hold(&suite, "", &["clip-photo", "clip-style"], 0.0, 1e-6);
    let absent = suite.absent().iter().find(|absent| absent.metric.name == "clip-text").unwrap();
    assert_eq!(absent.reason, "this CLIP model looks at pictures only");
}

#[test]
fn inception_equals_pytorch_fid_and_art_fid() {
    let document = document();
    let [_, _, painted] = case("odd");
    let image = impasto::image::tensor::to_unit(&painted).unwrap();
    for (name, flavour) in [("art", Flavour::Art), ("fid", Flavour::Fid)] {
        let weights = filled(&document["nets"][name], name);
        let vb = candle_nn::VarBuilder::from_tensors(weights, candle_core::DType::F32, &Device::Cpu);
        let net = Inception::new(flavour, vb).unwrap();
        let found = net.features(&image).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected: Vec<f32> = serde_json::from_value(document["inception"][name].clone()).unwrap();
        assert_eq!((found.len(), expected.len()), (2048, 128));
        let largest = expected.iter().copied().fold(0.0, f32::max);
        let apart = found.iter().step_by(16).zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        eprintln!("{name}: {apart:e} of {largest}");
        assert!(apart < 1e-5 * largest, "{name}: {apart} of {largest}");
    }
    let names = |contains: &'static [&'static str]| move |name: &str| contains.contains(&name);
    let both: &[_] = &["Mixed_7c.branch_pool.conv.weight", "fc1.weight", "fc2.weight"];
    assert_eq!(Flavour::detect(names(both)), Some(Flavour::Art));
    assert_eq!(Flavour::detect(names(&["Mixed_7c.branch_pool.conv.weight", "fc.weight"])), Some(Flavour::Fid));
    assert_eq!(Flavour::detect(names(&["fc1.weight", "fc2.weight"])), None);
}

/// Sets of pictures through the nets they need, in one.
#[test]
fn sets_are_judged_by_their_own_nets() {
    let (place, document) = (Place::new(), document());
    let art = save(&place, "art.safetensors", {
        let mut weights = filled(&document["nets"]["art"], "art");
        for head in ["fc1.weight", "fc2.weight"] {
            weights.insert(head.to_owned(), Tensor::zeros((2, 2048), candle_core::DType::F32, &Device::Cpu).unwrap());
        }
        weights
    });
    let lpips = save(&place, "alex.safetensors", filled(&document["nets"]["lpips-alex"], "lpips-alex"));
    let options = SuiteOptions { inception: vec![art.clone()], lpips: Some(lpips), ..SuiteOptions::default() };
    let suite = open(&options);
    assert_eq!(suite.set_metrics().iter().map(|metric| metric.name).collect::<Vec<_>>(), ["art-fid"]);
    assert!(suite.absent().iter().any(|absent| absent.metric.name == "fid"));
    let pictures = case("odd");
    let small = |picture: &RgbImage| imageops::crop_imm(picture, 5, 3, 90, 80).to_image();
    let features: Vec<_> = pictures.iter().map(|picture| suite.set_features(&small(picture)).unwrap()).collect();
    let value = |painted: &[_], styles: &[_], lpips| suite.measure_set(painted, styles, lpips).unwrap();
    assert_eq!(value(&features, &features, None), []);
    let [(name, same)] = value(&features, &features, Some(0.25))[..] else { panic!("one metric") };
    assert_eq!(name, "art-fid");
    close("a set to itself", same, 1.25, 1e-6, 0.0);
    let apart = value(&features[..2], &features[1..], Some(0.0))[0].1;
    assert!(apart > 1.01, "{apart}");
    assert!(suite.measure_set(&features[..1], &features, Some(0.0)).is_err());
    assert!(suite.set_features(&RgbImage::new(74, 300)).is_err());

    let alone = open(&SuiteOptions { lpips: None, ..options.clone() });
    assert!(alone.set_metrics().is_empty());
    let absent = alone.absent().iter().find(|absent| absent.metric.name == "art-fid").unwrap();
    assert!(absent.reason.contains("AlexNet"), "{}", absent.reason);
    let twice = SuiteOptions { inception: vec![art.clone(), art], ..options };
    assert!(open_suite(&twice, &crate::device()).unwrap_err().to_string().contains("second Inception"));
}

fn rows(name: &str, count: usize, neighbours: f32) -> Vec<Vec<f32>> {
    let values = noise(name, count * 12);
    values.chunks(12).map(|row| (0..12).map(|at| row[at] + row[(at + 11) % 12] * neighbours).collect()).collect()
}

#[test]
fn the_frechet_distance_equals_scipys_roots() {
    let (a, b) = (rows("frechet/a", 40, 0.0), rows("frechet/b", 25, 0.5));
    let document = document();
    let expected = |name: &str| document["sets"][name].as_f64().unwrap();
    close("full", frechet::distance(&a, &b).unwrap(), expected("full"), 1e-9, 0.0);
    close("full, turned round", frechet::distance(&b, &a).unwrap(), expected("full"), 1e-9, 0.0);
    // Where the product is singular, scipy's own root holds seven digits.
    close("few", frechet::distance(&a[..5], &b[..7]).unwrap(), expected("few"), 1e-6, 0.0);
    assert!(frechet::distance(&a, &a).unwrap() < 1e-12);
    let same = vec![a[0].clone(); 3];
    assert_eq!(frechet::distance(&same, &same).unwrap(), 0.0);
    assert!(frechet::distance(&a, &a[..1]).unwrap_err().to_string().contains("no spread"));
    assert!(frechet::distance(&a, &[vec![1.0; 11], vec![0.0; 11]]).is_err());
}

#[test]
fn metrics_are_symmetric_where_they_should_be_and_stay_in_their_range() {
    let place = Place::new();
    let backbone = save(&place, "vgg19.safetensors", crate::vgg::weights("vgg19"));
    let suite = open(&SuiteOptions { backbone: Some(backbone), ..SuiteOptions::default() });
    let [photo, style, painted] = case("even");
    let value = |name: &str, photo: &RgbImage, painted: &RgbImage| {
        let subject = Subject { photo: Some(photo), style: Some(photo), painted, prompt: None };
        suite.measure(&subject).unwrap().into_iter().find(|(found, _)| *found == name).unwrap().1
    };
    for name in ["ssim", "ms-ssim", "edge-f-canny", "histogram-distance"] {
        let (there, back) = (value(name, &photo, &painted), value(name, &painted, &photo));
        assert!((there - back).abs() < 1e-12, "{name}: {there} and {back}");
    }
    // What is relative to the photo or the painting is not symmetric.
    for name in ["content-distance", "style-distance", "cfsd"] {
        assert_ne!(value(name, &photo, &painted), value(name, &painted, &photo), "{name}");
    }
    let flat = |value: u8| RgbImage::from_pixel(192, 192, Rgb([value; 3]));
    let inverted = RgbImage::from_fn(192, 192, |x, y| Rgb(photo.get_pixel(x, y).0.map(|byte| 255 - byte)));
    for painted in [&painted, &photo, &inverted, &flat(0), &flat(255)] {
        let subject = Subject { photo: Some(&photo), style: Some(&style), painted, prompt: None };
        let values = suite.measure(&subject).unwrap();
        assert_eq!(values.len(), suite.metrics().len());
        for ((name, value), metric) in values.into_iter().zip(suite.metrics()) {
            assert_eq!(name, metric.name);
            let (least, most) = metric.range;
            assert!(value >= least && value <= most, "{name}: {value} is not in {least}..{most}");
        }
    }
    assert!(value("ssim", &photo, &inverted) < 0.0);
}

#[test]
fn edges_within_reach_count_and_no_others() {
    let size = 200;
    let line =
        |at: u32| Edges::from(RgbImage::from_fn(size, size, |x, _| if x < at { Rgb([0; 3]) } else { Rgb([255; 3]) }));
    // 0.0075 of the diagonal are 2.1 pixels.
    for (moved, expected) in [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.0), (50, 0.0)] {
        assert_eq!(edges::f_score(&line(100 + moved).0, &line(100).0).unwrap(), expected, "{moved}");
    }
    let none = Edges::from(RgbImage::new(size, size));
    assert_eq!(edges::f_score(&none.0, &none.0).unwrap(), 1.0);
    assert_eq!(edges::f_score(&none.0, &line(100).0).unwrap(), 0.0);
    assert_eq!(edges::f_score(&line(100).0, &none.0).unwrap(), 0.0);
    assert!(edges::f_score(&none.0, &Edges::from(RgbImage::new(size, size + 1)).0).is_err());
}

struct Edges(edges::Edges);

impl Edges {
    fn from(picture: RgbImage) -> Self {
        Self(edges::Edges::canny(&picture))
    }
}

#[test]
fn gates_hold_and_fail_loudly() {
    let place = Place::new();
    let backbone = save(&place, "distilled5.safetensors", crate::vgg::weights("distilled5"));
    let suite = open(&SuiteOptions { backbone: Some(backbone), ..SuiteOptions::default() });
    let [photo, style, _] = case("even");
    let gates = check_gates(&suite, &photo, &style).unwrap();
    let names: Vec<_> = gates.iter().map(|gate| gate.metric).collect();
    for name in
        ["ssim", "ms-ssim", "edge-f-canny", "content-distance", "style-distance", "gram-relu3_1", "histogram-distance"]
    {
        assert!(names.contains(&name), "{name} has no gate");
    }
    assert!(gates.iter().all(|gate| (gate.found - gate.expected).abs() <= 1e-6));

    // A network that answers with nothing but not-a-numbers.
    let broken = crate::vgg::weights("vgg19").into_iter().map(|(name, tensor)| (name, (tensor * f64::NAN).unwrap()));
    let broken = save(&place, "broken.safetensors", broken.collect());
    let suite = open(&SuiteOptions { backbone: Some(broken), ..SuiteOptions::default() });
    let error = check_gates(&suite, &photo, &style).unwrap_err();
    assert!(error.to_string().contains("sanity gate: content-distance of identity is NaN, it must be 0"), "{error}");
    assert_eq!(error.exit_code(), 1);
    // Nothing to check is no pass.
    let dot = RgbImage::new(0, 0);
    assert!(check_gates(&Suite::new(Nets::default()).unwrap(), &dot, &dot).is_err());
}

#[test]
fn what_cannot_be_measured_is_said_and_left_out() {
    let suite = Suite::new(Nets::default()).unwrap();
    let all: Vec<&Metric> = suite.metrics().iter().chain(suite.absent().iter().map(|absent| &absent.metric)).collect();
    for metric in &all {
        assert!(metric.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b)));
        assert!(!metric.about.is_empty() && metric.better != Better::None);
    }
    for name in
        ["edge-f-hed", "content-distance", "cfsd", "lpips-alex", "clip-text", "style-distance", "fid", "art-fid"]
    {
        let absent = suite.absent().iter().find(|absent| absent.metric.name == name).unwrap();
        assert!(!absent.reason.is_empty() && !absent.how.is_empty(), "{name}");
    }
    let [photo, style, painted] = case("small");
    let missing = suite.missing(&Subject { photo: None, style: Some(&style), painted: &painted, prompt: None });
    assert!(missing.iter().all(|absent| absent.metric.with == With::Photo) && missing.len() == 3, "{missing:?}");
    let missing = suite.missing(&Subject { photo: Some(&photo), style: Some(&style), painted: &painted, prompt: None });
    assert_eq!(missing.iter().map(|absent| absent.metric.name).collect::<Vec<_>>(), ["ms-ssim"]);
    assert!(missing[0].how.contains("161"), "{missing:?}");
    // CFSD would compare all of 66,000 places with all others.
    let place = Place::new();
    let backbone = save(&place, "vgg19.safetensors", crate::vgg::weights("vgg19"));
    let with_net = open(&SuiteOptions { backbone: Some(backbone), ..SuiteOptions::default() });
    let large = RgbImage::new(1032, 1024);
    let missing =
        with_net.missing(&Subject { photo: Some(&large), style: Some(&large), painted: &large, prompt: None });
    assert_eq!(missing.iter().map(|absent| absent.metric.name).collect::<Vec<_>>(), ["cfsd"]);
    assert!(missing[0].reason.contains("1032 x 1024 pixels are too many"), "{missing:?}");
    let none = RgbImage::new(0, 0);
    let nothing = Subject { photo: Some(&none), style: Some(&none), painted: &none, prompt: None };
    assert_eq!(suite.measure(&nothing).unwrap(), []);
    let error =
        suite.measure(&Subject { photo: Some(&style), style: None, painted: &painted, prompt: None }).unwrap_err();
    assert!(error.to_string().contains("64 x 48 pixels, the photo 56 x 40"), "{error}");

    assert!(ssim::ssim(&RgbImage::new(10, 50), &RgbImage::new(10, 50)).is_err());
    assert!(ms_ssim::ms_ssim(&RgbImage::new(160, 300), &RgbImage::new(160, 300)).is_err());
    assert!(ssim::ssim(&RgbImage::new(20, 50), &RgbImage::new(50, 20)).is_err());
    let black = histogram::Histogram::of(&RgbImage::new(3, 2)).unwrap();
    assert_eq!(histogram::distance(&black, &black), 0.0);
}

#[test]
fn files_of_other_kinds_are_refused_by_name() {
    let (place, document) = (Place::new(), document());
    let vgg = save(&place, "vgg19.safetensors", crate::vgg::weights("vgg19"));
    let shallow = crate::vgg::weights("distilled3");
    let shallow = save(&place, "distilled3.safetensors", shallow);
    let broken = place.path("broken.safetensors");
    std::fs::write(&broken, b"these are no weights").unwrap();
    let options = SuiteOptions::default;
    for (options, path, says) in [
        (SuiteOptions { lpips: Some(vgg.clone()), ..options() }, &vgg, "none of LPIPS's fitted layers"),
        (SuiteOptions { hed: Some(vgg.clone()), ..options() }, &vgg, "holds no HED"),
        (
            SuiteOptions { clip: Some(place.0.path().to_path_buf()), ..options() },
            &place.path("config.json"),
            "No such file",
        ),
        (SuiteOptions { inception: vec![vgg.clone()], ..options() }, &vgg, "holds no Inception"),
        (SuiteOptions { backbone: Some(shallow.clone()), ..options() }, &shallow, "has no relu4_1"),
        (SuiteOptions { backbone: Some(broken.clone()), ..options() }, &broken, ""),
        (SuiteOptions { lpips: Some(broken.clone()), ..options() }, &broken, ""),
    ] {
        let error = open_suite(&options, &crate::device()).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains(says), "{error}");
    }
    // The SqueezeNet flavour has seven layers.
    let mut squeeze = fitted_layers(&document, "lpips-alex");
    for layer in [5, 6] {
        squeeze.insert(format!("lin{layer}.model.1.weight"), squeeze["lin0.model.1.weight"].clone());
    }
    let squeeze = save(&place, "squeeze.safetensors", squeeze);
    let error = open_suite(&SuiteOptions { lpips: Some(squeeze), ..options() }, &crate::device()).unwrap_err();
    assert!(error.to_string().contains("SqueezeNet"), "{error}");
}

#[test]
fn work_is_reported_and_can_be_stopped() {
    let suite = Suite::new(Nets::default()).unwrap();
    let [photo, style, painted] = case("even");
    let (photo, style, painted) = (suite.look(&photo), suite.look(&style), suite.look(&painted));
    let mut said = Vec::new();
    let mut report = |progress: &Progress| {
        said.push((progress.label.clone(), progress.done, progress.total));
        if progress.done == 3 { Err(Error::Interrupted) } else { Ok(()) }
    };
    let stopped = suite.judge_watched(Some(&photo), Some(&style), &painted, None, &mut report);
    assert!(matches!(stopped, Err(Error::Interrupted)));
    let titles = suite.metrics().iter().map(|metric| metric.title);
    let expected: Vec<_> = titles.zip(0..4).map(|(title, done)| (title.to_owned(), done, 4)).collect();
    assert_eq!(said, expected);
    // A second judgement goes by what was seen before, and says the same.
    let judge = || suite.judge(Some(&photo), Some(&style), &painted, None).unwrap();
    assert_eq!(judge(), judge());
}

/// The command, as a person meets it.
#[test]
fn the_command_prints_a_table_and_what_is_absent() {
    let place = Place::new();
    let [photo, style, painted] = case("small");
    for (name, picture) in [("photo.png", &photo), ("style.png", &style), ("painted.png", &painted)] {
        picture.save(place.path(name)).unwrap();
    }
    let [photo, style, painted] = ["photo.png", "style.png", "painted.png"].map(|name| place.text(name));
    let vgg = save(&place, "vgg19.safetensors", crate::vgg::weights("vgg19"));
    let vgg = vgg.to_str().unwrap();
    let done = run(&["metrics", &photo, &painted, "--style", &style, "--backbone", vgg]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    for line in
        ["ssim                   0.7889  higher is better", "cfsd ", "by VGG-19", "absent: ms-ssim: 64 x 48 pixels"]
    {
        assert!(done.stdout.contains(line), "no `{line}` in\n{}", done.stdout);
    }
    let done = run(&["metrics", &photo, &photo, "--json"]);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let ssim = report["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == "ssim").unwrap();
    assert_eq!((ssim["value"].as_f64(), ssim["better"].as_str()), (Some(1.0), Some("higher")));
    let absent = report["absent"].as_array().unwrap();
    assert!(absent.iter().any(|absent| absent["name"] == "style-distance" && absent["how"].is_string()));

    let refusals = [
        (vec!["metrics", &photo, &style], 1, "style.png"),
        (vec!["metrics", &photo, "nowhere.png"], 1, "nowhere.png"),
        (vec!["metrics", &photo, &painted, "--style", "nowhere.png"], 1, "nowhere.png"),
        (vec!["metrics", &photo, &painted, "--backbone", "nowhere"], 2, "--backbone"),
        (vec!["metrics", &photo, &painted, "--lpips-trunk", vgg], 2, "--lpips"),
        (vec!["metrics", &photo, &painted, "--hed", vgg], 1, "vgg19.safetensors"),
        (vec!["metrics", &photo, vgg], 1, "vgg19.safetensors"),
        (vec!["metrics", &photo], 2, "PAINTED"),
    ];
    for (line, code, subject) in refusals {
        refused(&run(&line), code, subject);
    }
    let resized = run(&["metrics", &photo, &style, "--resize"]);
    assert_eq!(resized.code, Some(0), "{}", resized.stderr);
    assert!(resized.stderr.contains("resized from 64 x 48 to 56 x 40"), "{}", resized.stderr);
    let enlarged = run(&["metrics", &photo, &painted, "--style", &style, "--size", "256"]);
    assert!(
        enlarged.stdout.contains("ms-ssim ") && !enlarged.stdout.contains("absent: ms-ssim"),
        "{}",
        enlarged.stdout
    );
    refused(&run(&["metrics", &photo, &painted, "--size", "8"]), 2, "--size");
}

/// HED's own weights and real pictures, where they are.
#[test]
fn real_networks_agree_with_the_benchmarks_definitions() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let (hed, distilled) =
        (shared.join("weights/hed_vgg16.safetensors"), shared.join("weights/wct16x_se5.safetensors"));
    if !hed.exists() || !distilled.exists() {
        return;
    }
    let options = SuiteOptions { backbone: Some(distilled), hed: Some(hed), ..SuiteOptions::default() };
    let suite = open(&options);
    let pictures = case("odd");
    let found: HashMap<_, _> = suite.measure(&subject(&pictures)).unwrap().into_iter().collect();
    let document = document();
    for name in ["style-distance", "content-distance", "edge-f-hed"] {
        let expected = document["real"][name].as_f64().unwrap();
        close(name, found[name], expected, if name == "edge-f-hed" { 1e-3 } else { 1e-5 }, 0.0);
    }
    let [photo, style, _] = &pictures;
    check_gates(&suite, photo, style).unwrap();
}
