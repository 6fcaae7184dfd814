//! Whole pictures against diffusers: every entry of `fixtures/pictures/pictures.json`, made by
//! `tests/reference/pictures.py`, painted with the same settings and compared pixel by pixel.

use std::path::PathBuf;

use clap::ValueEnum;
use impasto::control::Preprocessor;
use impasto::device::Precision;
use impasto::image::{read, resize};
use impasto::pipeline::{Diffusion, ModelPaths, Request};
use impasto::progress::silent;
use serde_json::Value;

use crate::{device, fixture};

/// Every picture must lie above this, in dB; a right implementation lands well above 65.
const LOWEST: f64 = 55.0;
/// And their median above this.
const MEDIAN: f64 = 65.0;

#[test]
fn pictures_are_the_ones_diffusers_paints() {
    let index = std::fs::read_to_string(fixture("pictures/pictures.json")).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&index).unwrap();
    assert!(entries.len() >= 30, "only {} pictures", entries.len());
    let mut results: Vec<(f64, String)> =
        entries.iter().map(|entry| (compare(entry), entry["name"].as_str().unwrap().to_string())).collect();
    results.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (decibel, name) in &results {
        eprintln!("{decibel:7.2} dB  {name}");
    }
    let median = results[results.len() / 2].0;
    assert!(results[0].0 > LOWEST, "{} is only {:.1} dB from diffusers", results[0].1, results[0].0);
    assert!(median > MEDIAN, "the median is only {median:.1} dB");
}

/// Outside of its window guidance is as good as switched off, for text, style and structure alike.
#[test]
fn a_window_that_never_opens_is_no_guidance() {
    let index = std::fs::read_to_string(fixture("pictures/pictures.json")).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&index).unwrap();
    for name in ["plain", "style-plus-control", "inpaint-9"] {
        let entry = entries.iter().find(|entry| entry["name"] == name).unwrap();
        let (paths, request, seed) = read_entry(&entry["args"]);
        let mut diffusion = Diffusion::open(&paths, &device(), Precision::F32).unwrap();
        let mut paint = |request: &Request| {
            let prepared = diffusion.prepare(request, &mut silent).unwrap();
            diffusion.paint(&prepared, seed, 0, &mut silent).unwrap()
        };
        let without = paint(&Request { guidance: 1.0, ..request.clone() });
        assert_eq!(paint(&Request { guidance_end: 0.0, ..request.clone() }), without, "{name}");
        assert_ne!(paint(&request), without, "{name}");
    }
}

/// Peak signal-to-noise ratio against the reference, where the entry says to compare.
fn compare(entry: &Value) -> f64 {
    let name = entry["name"].as_str().unwrap();
    let args = &entry["args"];
    let (paths, request, seed) = read_entry(args);
    let mut diffusion = Diffusion::open(&paths, &device(), Precision::F32).unwrap();
    let prepared = diffusion.prepare(&request, &mut silent).unwrap_or_else(|error| panic!("{name}: {error}"));
    let ours = diffusion.paint(&prepared, seed, 0, &mut silent).unwrap_or_else(|error| panic!("{name}: {error}"));
    if let Some(folder) = std::env::var_os("IMPASTO_TEST_PICTURES") {
        ours.save(PathBuf::from(folder).join(format!("{name}.png"))).unwrap();
    }
    let theirs = read::open(fixture("pictures").join(entry["picture"].as_str().unwrap())).unwrap();
    assert_eq!(ours.dimensions(), theirs.dimensions(), "{name}");
    let (width, height) = ours.dimensions();
    // Where a mask keeps the original we return it untouched, diffusers what the VAE makes of it.
    let kept = request.mask.as_ref().map(|mask| {
        let original = resize::lanczos(request.init.as_ref().unwrap(), width, height).unwrap();
        (resize::lanczos_grey(mask, width, height).unwrap(), original)
    });
    let (mut squares, mut count) = (0f64, 0f64);
    for (x, y, pixel) in ours.enumerate_pixels() {
        if let Some((mask, original)) = &kept
            && mask.get_pixel(x, y).0[0] < 128
        {
            assert_eq!(pixel, original.get_pixel(x, y), "{name}: an unmasked pixel changed");
            continue;
        }
        for (a, b) in pixel.0.iter().zip(theirs.get_pixel(x, y).0) {
            squares += (f64::from(*a) - f64::from(b)).powi(2);
            count += 1.0;
        }
    }
    assert!(count > 0.0);
    if squares == 0.0 { 99.0 } else { 10.0 * (255.0f64.powi(2) * count / squares).log10() }
}

fn read_entry(args: &Value) -> (ModelPaths, Request, u64) {
    let path = |key: &str| args[key].as_str().map(fixture);
    let text = |key: &str| args[key].as_str().unwrap_or_default().to_string();
    let number = |key: &str, default: f64| args[key].as_f64().unwrap_or(default);
    let side = |key: &str| args[key].as_u64().map(|side| side as u32);
    let lora = |entry: &Value| (fixture(entry[0].as_str().unwrap()), entry[1].as_f64().unwrap());
    let paths = ModelPaths {
        model: path("model").unwrap(),
        loras: args["lora"].as_array().into_iter().flatten().map(lora).collect(),
        ip_adapter: path("ip_adapter"),
        image_encoder: path("image_encoder"),
        controlnet: path("controlnet"),
        ..Default::default()
    };
    let default = Request::default();
    let style = args["style"].as_array().cloned().unwrap_or_default();
    let request = Request {
        prompt: text("prompt"),
        negative: text("negative"),
        clip_skip: args["clip_skip"].as_u64().map(|skip| skip as usize),
        style: style.iter().map(|name| read::open(fixture(name.as_str().unwrap())).unwrap()).collect(),
        style_scale: number("style_scale", 1.0),
        style_blocks: args["style_blocks"].as_str().unwrap_or("full").parse().unwrap(),
        structure: path("structure").map(|path| read::open(path).unwrap()),
        control: match args["control"].as_str() {
            None | Some("none") => Preprocessor::None,
            Some("canny") => Preprocessor::Canny { low: 100.0, high: 200.0 },
            Some(other) => panic!("unknown control {other}"),
        },
        control_scale: number("control_scale", 1.0),
        control_start: number("control_start", 0.0),
        control_end: number("control_end", 1.0),
        init: path("init").map(|path| read::open(path).unwrap()),
        strength: number("strength", default.strength),
        mask: path("mask").map(|path| read::open_grey(path).unwrap()),
        sampler: ValueEnum::from_str(args["sampler"].as_str().unwrap(), false).unwrap(),
        sigmas: ValueEnum::from_str(args["sigmas"].as_str().unwrap(), false).unwrap(),
        steps: args["steps"].as_u64().unwrap() as usize,
        guidance: number("guidance", default.guidance),
        guidance_start: 0.0,
        guidance_end: number("guidance_end", 1.0),
        fast: args["fast"].as_str().unwrap_or("none").parse().unwrap(),
        width: side("width"),
        height: side("height"),
        latents: None,
    };
    (paths, request, args["seed"].as_u64().unwrap())
}
