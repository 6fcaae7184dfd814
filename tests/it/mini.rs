//! The small model in the program: that it comes out of it whole, and that prompt, style and structure each decide what they
//! should and only that.

use image::{Rgb, RgbImage};
use impasto::control::Preprocessor;
use impasto::device::Precision;
use impasto::pipeline::preset::Preset;
use impasto::pipeline::{Diffusion, ModelPaths, Request};
use impasto::progress::silent;
use std::path::{Path, PathBuf};

use crate::device;
use crate::program::{Place, Run, finish, program, refused};

const SIDE: u32 = 64;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/mini")
}

/// Paints with the preset's settings.
fn paint(prompt: &str, style: Option<&RgbImage>, shape: Option<&RgbImage>, seed: u64) -> RgbImage {
    paint_in(Precision::F32, prompt, style, shape, seed)
}

fn paint_in(
    precision: Precision,
    prompt: &str,
    style: Option<&RgbImage>,
    shape: Option<&RgbImage>,
    seed: u64,
) -> RgbImage {
    let paths = ModelPaths {
        model: folder(),
        ip_adapter: style.map(|_| folder().join("ip-adapter.safetensors")),
        image_encoder: style.map(|_| folder().join("image_encoder")),
        controlnet: shape.map(|_| folder().join("controlnet")),
        ..ModelPaths::default()
    };
    let mut request = Request { prompt: prompt.to_owned(), ..Request::default() };
    Preset::find("mini").unwrap().settings.apply(&mut request).unwrap();
    request.style = style.cloned().into_iter().collect();
    request.structure = shape.cloned();
    request.control = Preprocessor::None;
    let mut diffusion = Diffusion::open(&paths, &device(), precision).unwrap();
    let prepared = diffusion.prepare(&request, &mut silent).unwrap();
    diffusion.paint(&prepared, seed, 0, &mut silent).unwrap()
}

/// What is not the white around the thing.
fn is_painted(pixel: &Rgb<u8>) -> bool {
    pixel.0.iter().min() < Some(&225)
}

/// The mean colour of the thing, 0 to 1 each.
fn colour(picture: &RgbImage) -> [f64; 3] {
    let painted: Vec<_> = picture.pixels().filter(|pixel| is_painted(pixel)).collect();
    assert!(painted.len() > 200, "only {} pixels are painted", painted.len());
    [0, 1, 2].map(|channel| {
        painted.iter().map(|pixel| f64::from(pixel.0[channel])).sum::<f64>() / 255.0 / painted.len() as f64
    })
}

/// How colourful the thing is: the mean distance of its largest from its smallest channel, 0 to 1.
fn colourfulness(picture: &RgbImage) -> f64 {
    let painted: Vec<_> = picture.pixels().filter(|pixel| is_painted(pixel)).collect();
    let spread = |pixel: &&Rgb<u8>| f64::from(pixel.0.iter().max().unwrap() - pixel.0.iter().min().unwrap()) / 255.0;
    painted.iter().map(spread).sum::<f64>() / painted.len().max(1) as f64
}

/// How much two sets of pixels are the same: what both have, over what either has.
fn overlap(first: impl Fn(u32, u32) -> bool, second: impl Fn(u32, u32) -> bool) -> f64 {
    let places = || (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y)));
    let both = places().filter(|&(x, y)| first(x, y) && second(x, y)).count();
    let either = places().filter(|&(x, y)| first(x, y) || second(x, y)).count();
    both as f64 / either.max(1) as f64
}

/// What lies inside of the thing's outline, line by line: all that white does not reach from the border.
fn outlined(picture: &RgbImage) -> Vec<bool> {
    let (width, height) = picture.dimensions();
    let mut inside = vec![true; (width * height) as usize];
    let mut to_visit: Vec<(u32, u32)> = (0..width).flat_map(|x| [(x, 0), (x, height - 1)]).collect();
    to_visit.extend((0..height).flat_map(|y| [(0, y), (width - 1, y)]));
    while let Some((x, y)) = to_visit.pop() {
        let at = (y * width + x) as usize;
        if !inside[at] || is_painted(picture.get_pixel(x, y)) {
            continue;
        }
        inside[at] = false;
        for (x, y) in [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)] {
            if x < width && y < height {
                to_visit.push((x, y));
            }
        }
    }
    inside
}

/// How well a picture's outline follows a shape: 1 at best.
fn follows(picture: &RgbImage, shape: &RgbImage) -> f64 {
    let outlined = outlined(picture);
    overlap(|x, y| shape.get_pixel(x, y).0[0] > 0, |x, y| outlined[(y * SIDE + x) as usize])
}

fn ellipse(wide: f64, high: f64) -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (x, y) = ((f64::from(x) - 31.5) / wide, (f64::from(y) - 31.5) / high);
        Rgb([if x * x + y * y <= 1.0 { 255 } else { 0 }; 3])
    })
}

/// A picture in black and white, and one in bright colours: what a style may be.
fn styles() -> [RgbImage; 2] {
    ["a key, black and white", "a key, glossy 3d"].map(|prompt| paint(prompt, None, None, 3))
}

#[test]
fn the_prompt_decides_what_is_shown() {
    for seed in [1, 2] {
        let [red, green, _] = colour(&paint("a red apple", None, None, seed));
        assert!(red > green + 0.3, "a red apple is red: {red:.2} {green:.2}");
        let [red, green, blue] = colour(&paint("a banana", None, None, seed));
        assert!(green > 0.5 && red > blue + 0.2, "a banana is yellow: {red:.2} {green:.2} {blue:.2}");
        let [red, green, blue] = colour(&paint("a green apple", None, None, seed));
        assert!(green > red && green > blue + 0.2, "a green apple is green: {red:.2} {green:.2} {blue:.2}");
    }
}

#[test]
fn the_style_picture_decides_how_and_not_what() {
    let [plain, bright] = styles();
    assert!(colourfulness(&plain) < 0.1 && colourfulness(&bright) > 0.3);
    for prompt in ["a red apple", "a banana"] {
        let (as_plain, as_bright) = (paint(prompt, Some(&plain), None, 1), paint(prompt, Some(&bright), None, 1));
        let (less, more) = (colourfulness(&as_plain), colourfulness(&as_bright));
        assert!(less < 0.15 && more > 0.35, "{prompt}: {less:.2} in black and white, {more:.2} in colours");
    }
    // The prompt still tells an apple from a banana.
    let of = |prompt| colour(&paint(prompt, Some(&bright), None, 1));
    assert!(of("a banana")[1] > of("a red apple")[1] + 0.2);
}

#[test]
fn the_structure_decides_where_and_not_what() {
    for (wide, high) in [(28.0, 14.0), (14.0, 28.0)] {
        let shape = ellipse(wide, high);
        // An apple has one shape in all the pictures it was learned from, and takes this one all the same.
        for (prompt, seed) in [("a red apple", 1), ("a red apple", 2), ("a lemon", 1), ("an egg", 1)] {
            let found = follows(&paint(prompt, None, Some(&shape), seed), &shape);
            assert!(found > 0.85, "{prompt} of seed {seed}, {wide} x {high}: {found:.2}");
            let free = follows(&paint(prompt, None, None, seed), &shape);
            assert!(free < found - 0.2, "{prompt} of seed {seed}, {wide} x {high}: {free:.2} without it");
        }
        // In colours, which the name alone leaves open.
        let [red, green, _] = colour(&paint("a red apple, flat", None, Some(&shape), 1));
        assert!(red > green + 0.4, "still red: {red:.2} {green:.2}");
        let [red, green, blue] = colour(&paint("a lemon, flat", None, Some(&shape), 1));
        assert!(green > 0.5 && red > blue + 0.2, "still yellow: {red:.2} {green:.2} {blue:.2}");
    }
}

#[test]
fn all_three_hold_together() {
    let [plain, bright] = styles();
    let shape = ellipse(28.0, 16.0);
    for (style, colours) in [(plain, 0.0..0.2), (bright, 0.3..1.0)] {
        let picture = paint("a red apple", Some(&style), Some(&shape), 1);
        assert!(colours.contains(&colourfulness(&picture)), "{:.2} is not in {colours:?}", colourfulness(&picture));
        let found = follows(&picture, &shape);
        assert!(found > 0.85, "{found:.2}");
    }
}

#[test]
fn eight_bits_paint_nearly_the_same() {
    let (style, shape) = (paint("a key, glossy 3d", None, None, 3), ellipse(28.0, 16.0));
    for (style, shape) in [(None, None), (Some(&style), None), (None, Some(&shape)), (Some(&style), Some(&shape))] {
        let [exact, near] =
            [Precision::F32, Precision::Int8].map(|precision| paint_in(precision, "a red apple", style, shape, 1));
        let differences = exact.iter().zip(near.iter()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        let decibel = 10.0 * (255f64.powi(2) * exact.len() as f64 / differences.sum::<f64>().max(1e-9)).log10();
        eprintln!("{decibel:.1} dB");
        assert!(decibel > 20.0 && decibel < 60.0, "{decibel:.1} dB");
    }
}

/// Runs the program with its cache in the given place.
fn with_cache(place: &Place, args: &[&str]) -> Run {
    let mut command = program();
    command.env("XDG_CACHE_HOME", place.path("cache")).env_remove("HF_HOME").args(args);
    finish(command)
}

#[test]
fn it_comes_out_of_the_program_whole() {
    let place = Place::new();
    let out = place.text("out.png");
    let paint = || {
        with_cache(&place, &["generate", "--model", "mini", "-p", "a key", "--steps", "2", "--seed", "1", "-o", &out])
    };
    let first = paint();
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let picture = ::image::open(&out).unwrap();
    assert_eq!((picture.width(), picture.height()), (SIDE, SIDE));
    let texts = impasto::image::read::png_text(&out).unwrap();
    assert!(texts[0].1.contains("Model: mini"), "{}", texts[0].1);

    // Only the model is left in the cache, and what is damaged there is put right.
    let caches = place.path("cache/impasto");
    let folders: Vec<_> = std::fs::read_dir(&caches).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [folder] = folders.as_slice() else { panic!("{folders:?}") };
    let path = with_cache(&place, &["weights", "path", "mini/controlnet"]);
    assert_eq!(Path::new(path.stdout.trim()), folder.join("controlnet"));
    let sound = with_cache(&place, &["weights", "verify", "mini"]);
    assert_eq!((sound.code, sound.stdout.matches("  ok\n").count()), (Some(0), 17), "{}", sound.stdout);
    let unet = folder.join("unet/diffusion_pytorch_model.safetensors");
    std::fs::write(&unet, "short").unwrap();
    let damaged = with_cache(&place, &["weights", "verify", "mini"]);
    assert!(damaged.code == Some(1) && damaged.stdout.contains("WRONG"), "{}", damaged.stdout);
    assert!(damaged.stderr.contains(folder.to_str().unwrap()), "{}", damaged.stderr);
    std::fs::remove_file(&out).unwrap();
    let again = paint();
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(std::fs::metadata(&unet).unwrap().len() > 1_000_000);
    assert_eq!(std::fs::read_dir(&caches).unwrap().count(), 1);
    let list = with_cache(&place, &["weights", "list"]);
    assert!(list.stdout.lines().any(|line| line.starts_with("mini ") && line.contains("yes")), "{}", list.stdout);
}

#[test]
fn a_cache_that_cannot_be_written_is_told() {
    let place = Place::new();
    std::fs::write(place.path("cache"), "a file where the folder should be").unwrap();
    let out = place.text("out.png");
    let failed = with_cache(&place, &["generate", "--model", "mini", "-p", "a key", "-o", &out]);
    refused(&failed, 1, "cache");
    assert!(failed.stderr.contains("XDG_CACHE_HOME"), "{}", failed.stderr);
}
