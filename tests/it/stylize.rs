//! `impasto stylize` as a user meets it: what goes in, what comes out and where, and what is refused.

use super::program::{Place, Run, finish, picture, program, refused, run, tiny};
use ::image::{GrayImage, Luma, Rgb, RgbImage};
use impasto::pipeline::stylize::bundled::STYLES;
use impasto::pipeline::stylize::{KEYWORD, Method, Recipe};
use impasto::style::colour::{PreserveColor, prepare_style};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A photo and a style picture, and `stylize` with them and what a test adds.
struct Studio {
    place: Place,
    style: String,
}

impl Studio {
    fn new() -> Self {
        let place = Place::new();
        std::fs::create_dir(place.path("in")).unwrap();
        picture(&place.path("in/photo.png"), 96, 64);
        let style = place.text("style.png");
        painting(Path::new(&style));
        Self { place, style }
    }

    fn text(&self, name: &str) -> String {
        self.place.text(name)
    }

    /// `stylize PHOTO --style STYLE -o OUT`, with more.
    fn paint(&self, photo: &str, out: &str, more: &[&str]) -> Run {
        self.paint_in(&self.style, photo, out, more)
    }

    /// The same in another style.
    fn paint_in(&self, style: &str, photo: &str, out: &str, more: &[&str]) -> Run {
        let (photo, out) = (self.text(photo), self.text(out));
        stylize(&[&[&photo, "--style", style, "-o", &out], more].concat())
    }

    fn open(&self, name: &str) -> RgbImage {
        ::image::open(self.place.path(name)).unwrap().into_rgb8()
    }

    /// The names in a folder of the place, in order.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.place.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A net for these tests, in `tests/fixtures/stylize`.
fn net(name: &str) -> String {
    super::fixture("stylize").join(name).to_str().unwrap().to_owned()
}

/// `stylize` with a tiny net, unless the arguments say another method or net.
fn stylize(args: &[&str]) -> Run {
    let adain = net("adain.safetensors");
    let own = args.contains(&"--method") || args.contains(&"--net");
    let net = ["--net", &adain];
    run(&[&["stylize"][..], args, if own { &[][..] } else { &net }].concat())
}

/// Warm stripes, unlike any photo here.
fn painting(path: &Path) {
    let stripe = |x: u32, y: u32| if ((x + 2 * y) / 6).is_multiple_of(2) { [240, 150, 30] } else { [120, 30, 60] };
    RgbImage::from_fn(80, 72, |x, y| Rgb(stripe(x, y))).save(path).unwrap();
}

fn done(run: &Run) -> &Run {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run
}

fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// The mean difference of two pictures, in levels.
fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: u64 = a.iter().zip(b.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.len() as f64
}

#[test]
fn a_photo_becomes_a_painting_that_carries_its_recipe() {
    let studio = Studio::new();
    let painted = studio.paint("in/photo.png", "out.png", &["--json"]);
    let line: serde_json::Value = serde_json::from_str(&done(&painted).stdout).unwrap();
    assert!(painted.stderr.is_empty(), "{}", painted.stderr);
    assert_eq!(line["path"], studio.text("out.png"));
    assert_eq!((&line["method"], &line["width"], &line["height"]), (&"adain".into(), &96.into(), &64.into()));
    for stage in ["read", "encode-style", "stylize", "write"] {
        assert!(line["seconds"][stage].as_f64().unwrap() > 0.0, "{stage}");
    }
    let out = studio.open("out.png");
    assert_eq!(out.dimensions(), (96, 64));
    assert!(difference(&out, &studio.open("in/photo.png")) > 5.0);

    let recipe = Recipe::read(&studio.place.path("out.png")).unwrap();
    assert_eq!((recipe.method, recipe.size), (Method::Adain, (96, 64)));
    assert_eq!(serde_json::to_value(&recipe).unwrap(), line["recipe"]);
    assert_eq!(recipe.content.sha256.len(), 64);
    assert_eq!(recipe.styles[0].input.path, studio.style);
    assert_eq!(recipe.settings["strength"], 1.0);

    // Told apart from a recipe of `generate`.
    let out = studio.text("out.png");
    let repeated = run(&["generate", "--from", &out, "-o", &studio.text("again.png")]);
    refused(&repeated, 1, "out.png");
    assert!(repeated.stderr.contains("stylize"), "{}", repeated.stderr);
    // Without --json: the path alone.
    assert_eq!(done(&studio.paint("in/photo.png", "out.png", &[])).stdout, format!("{out}\n"));
}

#[test]
fn the_same_command_gives_the_same_bytes_on_any_number_of_threads() {
    let studio = Studio::new();
    for (out, threads) in [("one.png", "1"), ("two.png", "2"), ("again.png", "2")] {
        done(&studio.paint("in/photo.png", out, &["--threads", threads]));
    }
    assert!(bytes(studio.text("one.png")) == bytes(studio.text("two.png")), "one thread and two gave other bytes");
    assert!(bytes(studio.text("two.png")) == bytes(studio.text("again.png")), "the same command gave other bytes");
}

#[test]
fn strength_goes_from_the_photo_to_the_style() {
    let studio = Studio::new();
    let other = studio.text("other.png");
    RgbImage::from_fn(64, 64, |x, y| Rgb([10, 40, 120 + (x ^ y) as u8])).save(&other).unwrap();
    let paint = |style: &str, strength: &str| {
        done(&studio.paint_in(style, "in/photo.png", "out.png", &["--strength", strength]));
        studio.open("out.png")
    };
    // At 0 the style has no part in it, and from there each step leads further.
    let none = paint(&studio.style, "0");
    assert_eq!(none, paint(&other, "0"));
    let steps = ["0.3", "0.6", "1"].map(|strength| difference(&paint(&studio.style, strength), &none));
    assert!(0.0 < steps[0] && steps[0] < steps[1] && steps[1] < steps[2], "{steps:?}");
}

#[test]
fn several_styles_are_blended_by_their_weights() {
    let studio = Studio::new();
    let blue = studio.text("blue.png");
    RgbImage::from_fn(64, 64, |x, y| Rgb([10, 40, 120 + (x ^ y) as u8])).save(&blue).unwrap();
    let paint = |out: &str, styles: &[&str]| {
        let (photo, out) = (studio.text("in/photo.png"), studio.text(out));
        let styles = styles.iter().flat_map(|style| ["--style", style]).collect::<Vec<_>>();
        done(&stylize(&[&[&photo[..], "-o", &out][..], &styles].concat())).seconds
    };
    paint("warm.png", &[&studio.style]);
    paint("cold.png", &[&blue]);
    let (some, none) = (format!("{blue}:0.5"), format!("{blue}:0"));
    paint("mixed.png", &[&studio.style, &some]);
    paint("unmixed.png", &[&studio.style, &none]);
    let (warm, cold, mixed) = (studio.open("warm.png"), studio.open("cold.png"), studio.open("mixed.png"));
    assert_eq!(warm, studio.open("unmixed.png"));
    assert!(difference(&mixed, &warm) > 1.0 && difference(&mixed, &cold) > difference(&mixed, &warm));
    let recipe = Recipe::read(&studio.place.path("mixed.png")).unwrap();
    assert_eq!(recipe.styles.iter().map(|style| style.weight).collect::<Vec<_>>(), [1.0, 0.5]);
}

#[test]
fn a_mask_says_where_to_paint() {
    let studio = Studio::new();
    let mask = studio.text("mask.png");
    // Twice the photo's size: black, then a ramp, then white.
    GrayImage::from_fn(192, 128, |x, _| Luma([(x.saturating_sub(64) * 4).min(255) as u8])).save(&mask).unwrap();
    done(&studio.paint("in/photo.png", "whole.png", &[]));
    done(&studio.paint("in/photo.png", "part.png", &["--mask", &mask]));
    let (photo, whole, part) = (studio.open("in/photo.png"), studio.open("whole.png"), studio.open("part.png"));
    for y in 0..64 {
        assert_eq!(part.get_pixel(10, y), photo.get_pixel(10, y));
        assert_eq!(part.get_pixel(90, y), whole.get_pixel(90, y));
        for channel in 0..3 {
            let [part, photo, whole] = [&part, &photo, &whole].map(|it| it.get_pixel(48, y).0[channel]);
            assert!(part >= photo.min(whole) && part <= photo.max(whole));
        }
    }
    assert!(Recipe::read(&studio.place.path("part.png")).unwrap().mask.is_some());
    // Another shape is a mistake.
    GrayImage::new(64, 64).save(&mask).unwrap();
    refused(&studio.paint("in/photo.png", "no.png", &["--mask", &mask]), 2, "--mask");
    refused(&studio.paint("in/photo.png", "no.png", &["--mask", &studio.text("no-mask.png")]), 1, "no-mask.png");
    // A folder of masks, one per photo.
    std::fs::create_dir(studio.place.path("masks")).unwrap();
    GrayImage::new(48, 32).save(studio.place.path("masks/photo.webp")).unwrap_or_else(|_| {
        GrayImage::new(48, 32).save(studio.place.path("masks/photo.png")).unwrap();
    });
    done(&studio.paint("in/photo.png", "none.png", &["--mask", &studio.text("masks")]));
    assert_eq!(studio.open("none.png"), photo);
}

#[test]
fn sizes_are_of_the_long_side() {
    let studio = Studio::new();
    for (size, expected) in [("48", (48, 32)), ("192", (192, 128))] {
        done(&studio.paint("in/photo.png", "out.png", &["--size", size, "--style-size", "64"]));
        assert_eq!(studio.open("out.png").dimensions(), expected);
    }
}

#[test]
fn colours_can_be_kept() {
    let studio = Studio::new();
    let photo = studio.open("in/photo.png");
    let paint = |style: &str, more: &[&str]| {
        done(&studio.paint_in(style, "in/photo.png", "out.png", more));
        studio.open("out.png")
    };
    let kept = |kind: &'static str| paint(&studio.style, &["--preserve-color", kind]);
    let none = kept("none");
    // Colours nearer to the photo's, and the painting's lightness all the same.
    let luminance = kept("luminance");
    assert!(difference(&luminance, &photo) < difference(&none, &photo));
    let grey = |pixel: &Rgb<u8>| pixel.0.iter().zip([0.299, 0.587, 0.114]).map(|(&c, w)| f64::from(c) * w).sum::<f64>();
    let off = luminance.pixels().zip(none.pixels()).map(|(a, b)| (grey(a) - grey(b)).abs()).sum::<f64>();
    assert!(off / f64::from(96 * 64) < 2.0, "{off}");
    // A style picture that was given the photo's colours beforehand is the same thing.
    let style = studio.open("style.png");
    for (kind, flag) in [(PreserveColor::Histogram, "histogram"), (PreserveColor::Coral, "coral")] {
        let adapted = studio.text("adapted.png");
        prepare_style(kind, &style, &photo).save(&adapted).unwrap();
        // At another size the two would be made in another order.
        let same = ["--style-size", "80"];
        let with_flag = paint(&studio.style, &[&same[..], &["--preserve-color", flag]].concat());
        assert_eq!(with_flag, paint(&adapted, &same), "{flag}");
        assert_ne!(with_flag, paint(&studio.style, &same), "{flag}");
    }
    // A fast net has no style picture: the painting is given the photo's colours.
    let fast = ["--method", "fast", "--net", &net("fast.safetensors")];
    let paint_fast = |kind: &'static str| {
        let (photo, out) = (studio.text("in/photo.png"), studio.text("out.png"));
        let args = [&[&photo[..], "-o", &out, "--preserve-color", kind], &fast[..]].concat();
        done(&stylize(&args));
        studio.open("out.png")
    };
    let (plain, matched) = (paint_fast("none"), paint_fast("histogram"));
    assert_eq!(matched, prepare_style(PreserveColor::Histogram, &plain, &photo));
}

#[test]
fn a_large_photo_is_painted_in_strips() {
    let studio = Studio::new();
    picture(&studio.place.path("large.png"), 1900, 1200);
    let fast = ["--method", "fast", "--net", &net("fast.safetensors"), "-o", &studio.text("fast.png")];
    done(&stylize(&[&[&studio.text("large.png")[..]], &fast[..]].concat()));
    done(&studio.paint("large.png", "half.png", &["--strength", "0.5", "--mask", &studio.text("large.png")]));
    for name in ["fast.png", "half.png"] {
        assert_eq!(studio.open(name).dimensions(), (1900, 1200));
    }
    // Too large is told with the way out, before hours of work.
    let huge = studio.paint("large.png", "no.png", &["--size", "20000"]);
    refused(&huge, 2, "--size");
    assert!(huge.stderr.contains("million") && !studio.place.path("no.png").exists(), "{}", huge.stderr);
}

#[test]
fn jpegs_are_written_by_their_ending() {
    let studio = Studio::new();
    done(&studio.paint("in/photo.png", "out.png", &[]));
    done(&studio.paint("in/photo.png", "out.JPG", &[]));
    let written = bytes(studio.text("out.JPG"));
    assert_eq!(written[..4], [0xff, 0xd8, 0xff, 0xe0]);
    let text = String::from_utf8_lossy(&written);
    assert!(text.contains("\"method\":\"adain\"") && text.contains("sha256"));
    let read = impasto::image::read::open(studio.text("out.JPG")).unwrap();
    assert!(difference(&read, &studio.open("out.png")) < 6.0);
}

#[test]
fn every_kind_of_picture_goes_in() {
    let studio = Studio::new();
    let formats = super::fixture("image/formats");
    let out = studio.text("out");
    let all = stylize(&[formats.to_str().unwrap(), "--style", &studio.style, "-o", &out]);
    done(&all);
    let names = studio.names("out");
    assert_eq!(names.len(), std::fs::read_dir(&formats).unwrap().count(), "{names:?}");
    // Names that differ by their ending alone keep it, and sideways pictures come out upright.
    assert!(names.contains(&"upright-6.jpg.png".to_owned()) && names.contains(&"cmyk.png".to_owned()), "{names:?}");
    let (width, height) = studio.open("out/upright-1.png").dimensions();
    assert_eq!(studio.open("out/upright-6.png.png").dimensions(), (height, width));
    // And as style pictures.
    for name in ["cmyk.jpg", "grey16.png", "rgba.png", "palette-transparent.png"] {
        let style = formats.join(name);
        let (photo, out) = (studio.text("in/photo.png"), studio.text("one.png"));
        done(&stylize(&[&photo, "--style", style.to_str().unwrap(), "-o", &out]));
    }
}

#[test]
fn the_smallest_and_the_thinnest_pictures_are_painted() {
    let studio = Studio::new();
    let sizes = [(1, 1), (2, 1), (3, 5), (1, 300), (7, 7), (15, 33), (20_000, 1)];
    for (width, height) in sizes {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 9) as u8, 90]))
            .save(studio.place.path("odd.png"))
            .unwrap();
        done(&studio.paint("odd.png", "out.png", &[]));
        assert_eq!(studio.open("out.png").dimensions(), (width, height));
        // As the style.
        let (photo, odd, out) = (studio.text("in/photo.png"), studio.text("odd.png"), studio.text("out.png"));
        done(&stylize(&[&photo, "--style", &odd, "-o", &out]));
        assert_eq!(studio.open("out.png").dimensions(), (96, 64));
    }
    // One colour all over has no statistics to speak of.
    RgbImage::from_pixel(40, 40, Rgb([9; 3])).save(studio.place.path("flat.png")).unwrap();
    done(&studio.paint("flat.png", "out.png", &[]));
    let (flat, out) = (studio.text("flat.png"), studio.text("out.png"));
    done(&stylize(&[&flat, "--style", &flat, "-o", &out]));
    // The photo in its own style.
    let photo = studio.text("in/photo.png");
    done(&stylize(&[&photo, "--style", &photo, "-o", &out]));
}

#[test]
fn folders_and_patterns_become_folders() {
    let studio = Studio::new();
    for name in ["f10.png", "f2.png", "other.jpeg", ".hidden.png"] {
        picture(&studio.place.path(&format!("in/{name}")), 40, 40);
    }
    std::fs::write(studio.place.path("in/notes.txt"), b"not a picture").unwrap();
    std::fs::create_dir(studio.place.path("in/folder.png")).unwrap();
    let all = studio.paint("in", "all", &["--size", "32"]);
    let paths = |names: &[&str]| names.iter().map(|name| format!("{}\n", studio.text(name))).collect::<String>();
    assert_eq!(done(&all).stdout, paths(&["all/f2.png", "all/f10.png", "all/other.png", "all/photo.png"]));
    assert_eq!(studio.names("all"), ["f10.png", "f2.png", "other.png", "photo.png"]);
    // In a folder that is there, as JPEGs.
    let some = studio.paint("in/f*.png", "all", &["--size", "32", "--format", "jpg"]);
    assert_eq!(done(&some).stdout, paths(&["all/f2.jpg", "all/f10.jpg"]));
    // A single file into a folder.
    assert_eq!(done(&studio.paint("in/f2.png", "all/", &["--size", "32"])).stdout, paths(&["all/f2.png"]));
    // What is there already can be left out.
    std::fs::remove_file(studio.place.path("all/other.png")).unwrap();
    let rest = studio.paint("in", "all", &["--size", "32", "--skip-existing"]);
    assert_eq!(done(&rest).stdout, paths(&["all/other.png"]));
    // A file whose name looks like a pattern is that file.
    picture(&studio.place.path("in/what?.png"), 40, 40);
    done(&studio.paint("in/what?.png", "what.png", &["--size", "32"]));
}

#[test]
fn a_broken_photo_does_not_stop_the_others() {
    let studio = Studio::new();
    picture(&studio.place.path("in/a.png"), 40, 40);
    picture(&studio.place.path("in/z.png"), 40, 40);
    let whole = bytes(studio.text("in/a.png"));
    std::fs::write(studio.place.path("in/half.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(studio.place.path("in/text.jpg"), b"this is no picture").unwrap();
    let missing = studio.text("in/missing.png");
    let painted = studio.paint("in", "out", &[&missing]);
    assert_eq!(painted.code, Some(1), "{}", painted.stderr);
    assert_eq!(studio.names("out"), ["a.png", "photo.png", "z.png"]);
    assert_eq!(painted.stdout.lines().count(), 3);
    for name in ["half.png", "text.jpg", "missing.png"] {
        let told = painted.stderr.lines().filter(|line| line.starts_with("error: ") && line.contains(name)).count();
        assert_eq!(told, 1, "{name}: {}", painted.stderr);
    }
    assert!(painted.stderr.ends_with("error: 3 of 6 could not be painted\n"), "{}", painted.stderr);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_painted() {
    let studio = Studio::new();
    std::fs::create_dir(studio.place.path("empty")).unwrap();
    std::fs::write(studio.place.path("empty/notes.txt"), b"x").unwrap();
    std::fs::write(studio.place.path("broken.png"), b"broken").unwrap();
    let (broken, style) = (studio.text("broken.png"), studio.style.clone());
    refused(&studio.paint("empty", "out", &[]), 1, "without pictures");
    refused(&studio.paint("in/*.gif", "out", &[]), 1, "*.gif");
    refused(&studio.paint("nowhere.png", "out.png", &[]), 1, "nowhere.png");
    refused(&studio.paint("broken.png", "out.png", &[]), 1, "broken.png");
    refused(&studio.paint("in/photo.png", "out.png", &["--style", &broken]), 1, "broken.png");
    refused(&studio.paint("in/photo.png", "out.png", &["--mask", &broken]), 1, "broken.png");
    let cases: &[(&[&str], &str)] = &[
        (&["--strength", "2"], "--strength"),
        (&["--strength", "-0.1"], "--strength"),
        (&["--strength", "nan"], "--strength"),
        (&["--size", "0"], "--size"),
        (&["--size", "20001"], "--size"),
        (&["--size", "big"], "--size"),
        (&["--style-size", "0"], "--style-size"),
        (&["--threads", "0"], "--threads"),
        (&["--method", "magic"], "--method"),
        (&["--preserve-color", "all"], "--preserve-color"),
        (&["--style", &format!("{style}:-1")], "--style"),
        (&["--style", &format!("{style}:inf")], "--style"),
        (&["--frames"], "--frames"),
        (&["--smooth", "0.5"], "--frames"),
        (&["--format", "jpg"], "--format"),
        (&["--steps", "5"], "--steps"),
        (&["--prompt", "a cat"], "--prompt"),
        (&["--dtype", "f16"], "--dtype"),
        (&["--nonsense"], "--nonsense"),
    ];
    for (more, subject) in cases {
        refused(&studio.paint("in/photo.png", "out.png", more), 2, subject);
    }
    refused(&studio.paint("in", "frames", &["--frames", "--smooth", "1.5"]), 2, "--smooth");
    let photo = studio.text("in/photo.png");
    refused(&stylize(&[&photo, "-o", &studio.text("out.png")]), 2, "--style");
    refused(&stylize(&[&photo, "--style", &style]), 2, "--output");
    refused(&stylize(&["--style", &style, "-o", &studio.text("out.png")]), 2, "CONTENT");
    let nothing = format!("{style}:0");
    refused(&stylize(&[&photo, "--style", &nothing, "-o", &studio.text("out.png")]), 2, "--style");
    assert_eq!(studio.place.files(), ["broken.png", "empty", "in", "style.png"]);
}

#[test]
fn nothing_that_goes_in_is_painted_over() {
    let studio = Studio::new();
    picture(&studio.place.path("in/b.png"), 40, 40);
    let before = [bytes(studio.text("in/photo.png")), bytes(&studio.style)];
    refused(&studio.paint("in/photo.png", "in/photo.png", &[]), 2, "in/photo.png");
    refused(&studio.paint("in/photo.png", "style.png", &[]), 2, "style.png");
    refused(&studio.paint("in", "in", &[]), 2, "folder of the photos");
    refused(&studio.paint("in/*.png", "in", &[]), 2, "also a picture that goes in");
    refused(&studio.paint("in", "out.png", &[]), 2, "out.png");
    refused(&studio.paint("in/photo.png", "out.gif", &[]), 2, "out.gif");
    refused(&studio.paint("in/photo.png", "missing/out.png", &[]), 2, "missing/out.png");
    refused(&studio.paint("in", "missing/out", &[]), 2, "missing/out");
    assert_eq!([bytes(studio.text("in/photo.png")), bytes(&studio.style)], before);
    // Two photos that would become one painting.
    std::fs::create_dir(studio.place.path("two")).unwrap();
    picture(&studio.place.path("two/b.png"), 40, 40);
    let clash = studio.paint("in", "out", &[&studio.text("two")]);
    refused(&clash, 2, "two/b.png");
    assert_eq!(studio.place.files(), ["in", "style.png", "two"]);
    // A painting that is there is replaced, whole; one that is protected is not.
    done(&studio.paint("in/photo.png", "out.png", &[]));
    done(&studio.paint("in/photo.png", "out.png", &["--strength", "0.5"]));
    let mut permissions = std::fs::metadata(studio.place.path("out.png")).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(studio.place.path("out.png"), permissions).unwrap();
    refused(&studio.paint("in/photo.png", "out.png", &[]), 2, "read-only");
    if cfg!(target_os = "linux") {
        refused(&stylize(&[&studio.text("in/photo.png"), "--style", &studio.style, "-o", "/dev/full"]), 1, "/dev/full");
    }
}

/// A wall with a box on it, at `x`, and some noise of the camera's.
fn frame(path: &Path, x: u32, seed: u32) {
    let mut frame = RgbImage::from_fn(96, 64, |i, j| {
        let inside = (x..x + 14).contains(&i) && (20..34).contains(&j);
        if inside { Rgb([250, 230, 40]) } else { Rgb([70 + (i / 3) as u8, 80 + (j / 2) as u8, 110]) }
    });
    for (at, byte) in frame.iter_mut().enumerate() {
        let noise =
            ((at as u32).wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)).wrapping_mul(2_246_822_519) >> 30;
        *byte = byte.saturating_add(noise as u8);
    }
    frame.save(path).unwrap();
}

#[test]
fn what_stands_still_in_a_video_stands_still_in_the_painting() {
    let studio = Studio::new();
    std::fs::create_dir(studio.place.path("film")).unwrap();
    for number in 0..12 {
        frame(&studio.place.path(&format!("film/{number}.png")), 4 + number * 6, number);
    }
    let painted = studio.paint("film", "smooth", &["--frames"]);
    let order: Vec<_> = done(&painted)
        .stdout
        .lines()
        .map(|line| Path::new(line).file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(order, (0..12).map(|number| number.to_string()).collect::<Vec<_>>());
    done(&studio.paint("film", "raw", &["--frames", "--smooth", "0"]));
    let frame = |folder: &str, number: u32| studio.open(&format!("{folder}/{number}.png"));
    let step = |folder: &str, number: u32, x: u32, y: u32| -> f64 {
        let part = |picture: RgbImage| ::image::imageops::crop_imm(&picture, x, y, 12, 10).to_image();
        difference(&part(frame(folder, number - 1)), &part(frame(folder, number)))
    };
    // The wall below the box's way: still. The box's way, whenever the box comes by: as lively as without smoothing.
    let change = |folder: &str| (1..12).map(|number| step(folder, number, 40, 52)).sum::<f64>();
    assert!(change("smooth") < 0.35 * change("raw"), "{} {}", change("smooth"), change("raw"));
    let passing: Vec<u32> = (1..12).filter(|&number| step("film", number, 40, 22) > 10.0).collect();
    assert!((2..11).contains(&passing.len()), "{passing:?}");
    let change = |folder: &str| passing.iter().map(|&number| step(folder, number, 40, 22)).sum::<f64>();
    assert!(change("smooth") > 0.8 * change("raw"), "{} {}", change("smooth"), change("raw"));
    // Without smoothing a frame is the picture it would be alone.
    done(&studio.paint("film/7.png", "alone.png", &[]));
    assert_eq!(studio.open("alone.png"), frame("raw", 7));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_whole_pictures_only() {
    let studio = Studio::new();
    for number in 0..60 {
        picture(&studio.place.path(&format!("in/{number}.png")), 200, 200);
    }
    let mut command = program();
    let net = net("adain.safetensors");
    command.args(["stylize", &studio.text("in"), "--style", &studio.style, "--size", "700", "--net", &net]);
    let mut child =
        command.arg("-o").arg(studio.place.path("out")).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !studio.place.path("out").exists() || studio.names("out").is_empty() {
        assert!(started.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let names = studio.names("out");
    assert!(!names.is_empty() && names.len() < 61, "{names:?}");
    for name in names {
        assert!(name.ends_with(".png") && !name.starts_with('.'), "{name}");
        assert_eq!(studio.open(&format!("out/{name}")).width(), 700);
    }
}

#[test]
fn diffusion_repaints_with_the_nets_of_generate() {
    let studio = Studio::new();
    let (model, adapter, controlnet) = (tiny("model"), tiny("ip-adapter-plus.safetensors"), tiny("controlnet"));
    let nets = ["--method", "diffusion", "--model", &model, "--ip-adapter", &adapter];
    let with = |more: &[&'static str]| [&nets[..], &["--steps", "2"], more].concat();
    let structure = ["--controlnet", &controlnet];
    for out in ["one.png", "two.png"] {
        done(&studio.paint("in/photo.png", out, &[&with(&[])[..], &structure].concat()));
    }
    assert!(bytes(studio.text("one.png")) == bytes(studio.text("two.png")), "the same command gave other bytes");
    let one = studio.open("one.png");
    assert_eq!(one.dimensions(), (96, 64));
    let recipe = Recipe::read(&studio.place.path("one.png")).unwrap();
    assert_eq!((&recipe.settings["steps"], &recipe.settings["control"]), (&2.into(), &"canny".into()));
    assert_eq!(recipe.nets["model"], model);
    // Other seeds, other pictures; without a ControlNet the structure is the photo's noise alone.
    done(&studio.paint("in/photo.png", "three.png", &[&with(&["--seed", "5"])[..], &structure].concat()));
    assert_ne!(one, studio.open("three.png"));
    done(&studio.paint("in/photo.png", "free.png", &with(&["--size", "64"])));
    assert_eq!(studio.open("free.png").dimensions(), (64, 64));
    // It is generate's picture.
    let (photo, same) = (studio.text("in/photo.png"), studio.text("same.png"));
    let numbers = ["--strength", "0.7", "--style-scale", "0.8", "--control-scale", "0.7", "--control-end", "0.8"];
    let prompts = [
        "--prompt",
        "best quality, high quality",
        "--negative",
        "monochrome, lowres, bad anatomy, worst quality, low quality",
    ];
    let pictures = ["--init", &photo, "--structure", &photo, "--style", &studio.style, "--seed", "0", "-o", &same];
    let generate =
        ["generate", "--model", &model, "--ip-adapter", &adapter, "--controlnet", &controlnet, "--steps", "2"];
    done(&run(&[&generate[..], &numbers, &prompts, &pictures].concat()));
    assert_eq!(studio.open("same.png"), one);
    // Several photos share the encoded prompt and style, and are painted as each would be alone.
    picture(&studio.place.path("in/a.png"), 64, 64);
    done(&studio.paint("in", "out", &[&with(&[])[..], &structure].concat()));
    assert_eq!(studio.open("out/photo.png"), one);

    for (more, code, subject) in [
        (&["--strength", "0"][..], 2, "--strength"),
        (&["--control", "none"], 2, "--control"),
        (&["--style", &format!("{}:2", studio.style)], 2, "--style"),
        (&["--net", "x"], 2, "--net"),
    ] {
        refused(&studio.paint("in/photo.png", "no.png", &[&with(&[])[..], &structure, more].concat()), code, subject);
    }
    let mut command = program();
    let args = ["stylize", &photo, "--style", &studio.style, "--method", "diffusion", "-o", &studio.text("no.png")];
    command.env("HF_HUB_CACHE", studio.place.path("cache")).args(args);
    refused(&finish(command), 1, "sd15");
    assert!(!studio.place.path("no.png").exists());
}

#[test]
fn fast_nets_paint_their_own_styles() {
    let studio = Studio::new();
    let (one, three, photo) = (net("fast.safetensors"), net("fast-three.safetensors"), studio.text("in/photo.png"));
    let paint = |out: &str, more: &[&str]| {
        let out = studio.text(out);
        stylize(&[&[&photo[..], "-o", &out, "--method", "fast"], more].concat())
    };
    done(&paint("one.png", &["--style", &one]));
    done(&paint("first.png", &["--net", &three]));
    done(&paint("zero.png", &["--net", &three, "--style", "0"]));
    done(&paint("last.png", &["--net", &three, "--style", "2"]));
    done(&paint("blend.png", &["--net", &three, "--style", "0:0.5", "--style", "2:0.5"]));
    let [first, last, blend] = ["first.png", "last.png", "blend.png"].map(|name| studio.open(name));
    assert_eq!(first, studio.open("zero.png"));
    assert!(difference(&first, &last) > 1.0 && difference(&blend, &first) < difference(&last, &first));
    // Strength mixes the photo in; different nets are mixed as pictures.
    done(&paint("half.png", &["--style", &one, "--strength", "0.5"]));
    done(&paint("none.png", &["--style", &one, "--strength", "0"]));
    assert_eq!(studio.open("none.png"), studio.open("in/photo.png"));
    let (half, whole) = (studio.open("half.png"), studio.open("one.png"));
    assert!(
        (2.0 * difference(&half, &studio.open("none.png")) / difference(&whole, &studio.open("none.png")) - 1.0).abs()
            < 0.05
    );
    done(&paint("mixed.png", &["--style", &one, "--style", &format!("{three}:0")]));
    assert_eq!(studio.open("mixed.png"), whole);
    let recipe = Recipe::read(&studio.place.path("blend.png")).unwrap();
    assert_eq!((recipe.method, recipe.styles.len()), (Method::Fast, 0));
    assert_eq!(recipe.nets["net"][0]["styles"], serde_json::json!([[0, 0.5], [2, 0.5]]));
    for (more, code, subject) in [
        (&[][..], 2, "--style"),
        (&["--style", "nobody"], 2, "nobody"),
        (&["--style", &studio.style], 1, "style.png"),
        (&["--net", &three, "--style", "3"], 2, "3"),
        (&["--net", &three, "--style", "wave"], 2, "wave"),
        (&["--net", &net("adain.safetensors")], 1, "adain.safetensors"),
        (&["--style", &one, "--style-size", "64"], 2, "--style-size"),
    ] {
        refused(&paint("no.png", more), code, subject);
    }
    // The other way round.
    refused(&studio.paint("in/photo.png", "no.png", &["--net", &one]), 1, "fast.safetensors");
    refused(&studio.paint("in/photo.png", "no.png", &["--net", &studio.style]), 1, "style.png");
    assert!(!studio.place.path("no.png").exists());
}

#[test]
fn gatys_optimises_saves_and_goes_on() {
    let studio = Studio::new();
    let vgg = net("vgg16.safetensors");
    let few =
        ["--method", "gatys", "--backbone", &vgg, "--iterations", "6", "--coarse-iterations", "3", "--pyramid", "48"];
    let paint = |out: &str, more: &[&str]| studio.paint("in/photo.png", out, &[&few[..], more].concat());
    done(&paint("one.png", &[]));
    done(&paint("two.png", &["--threads", "1"]));
    assert!(bytes(studio.text("one.png")) == bytes(studio.text("two.png")), "the same command gave other bytes");
    let one = studio.open("one.png");
    assert_eq!(one.dimensions(), (96, 64));
    let recipe = Recipe::read(&studio.place.path("one.png")).unwrap();
    assert_eq!((recipe.method, &recipe.settings["iterations"]), (Method::Gatys, &6.into()));
    // Without style the photo stays; another start and seed are another picture.
    done(&paint("none.png", &["--strength", "0", "--total-variation", "0"]));
    let photo = studio.open("in/photo.png");
    assert!(difference(&studio.open("none.png"), &photo) < difference(&one, &photo));
    done(&paint("noise.png", &["--init", "noise", "--seed", "1"]));
    done(&paint("noise-2.png", &["--init", "noise", "--seed", "2"]));
    assert_ne!(studio.open("noise.png"), studio.open("noise-2.png"));
    done(&paint(
        "lbfgs.png",
        &["--optimizer", "lbfgs", "--style-loss", "gram", "--content-layers", "relu3_1=2", "--size", "40"],
    ));
    assert_eq!(studio.open("lbfgs.png").dimensions(), (40, 27));
    // Pictures on the way, and no state once it is done.
    done(&paint("way.png", &["--save-every", "4"]));
    assert_eq!(studio.open("way.png"), one);
    let on_the_way = studio.place.files().into_iter().filter(|name| name.starts_with("way-")).collect::<Vec<_>>();
    assert!(!on_the_way.is_empty() && !studio.place.path("way.state").exists(), "{on_the_way:?}");
    // Two styles, each in its half.
    let other = studio.text("other.png");
    RgbImage::from_fn(64, 64, |x, y| Rgb([10, 40, 120 + (x ^ y) as u8])).save(&other).unwrap();
    for (name, left) in [("left.png", 255), ("right.png", 0)] {
        GrayImage::from_fn(96, 64, |x, _| Luma([if x < 48 { left } else { 255 - left }]))
            .save(studio.place.path(name))
            .unwrap();
    }
    let (left, right) = (studio.text("left.png"), studio.text("right.png"));
    done(&paint("regions.png", &["--style", &other, "--region", &left, "--region", &right, "--feather", "2"]));
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--iterations", "0"], 2, "--iterations"),
        (&["--style-weight", "-1"], 2, "--style-weight"),
        (&["--learning-rate", "nan"], 2, "--learning-rate"),
        (&["--content-layers", "relu9_9"], 2, "relu9_9"),
        (&["--style-layers", "relu1_1=x"], 2, "--style-layers"),
        (&["--region", &left, "--region", &right], 2, "--region"),
        (&["--resume"], 2, "--save-every"),
        (&["--size", "20000"], 2, "--size"),
        (&["--net", &vgg], 2, "--net"),
    ];
    for (more, code, subject) in cases {
        let base = ["--method", "gatys", "--backbone", &vgg];
        refused(&studio.paint("in/photo.png", "no.png", &[&base[..], more].concat()), *code, subject);
    }
    let no_net = studio.paint("in/photo.png", "no.png", &["--method", "gatys", "--backbone", &studio.style]);
    refused(&no_net, 1, "style.png");
    refused(&studio.paint("in/photo.png", "no.png", &["--iterations", "5"]), 2, "--iterations");
    assert!(!studio.place.path("no.png").exists());
}

#[cfg(unix)]
#[test]
fn gatys_goes_on_where_ctrl_c_stopped_it() {
    let studio = Studio::new();
    let vgg = net("vgg16.safetensors");
    let args = ["--method", "gatys", "--backbone", &vgg, "--iterations", "150", "--pyramid", "0", "--average", "0.5"];
    let whole = studio.paint("in/photo.png", "whole.png", &args);
    done(&whole);
    let mut command = program();
    command.args(["stylize", &studio.text("in/photo.png"), "--style", &studio.style, "-o", &studio.text("part.png")]);
    let mut child = command.args(args).args(["--save-every", "5"]).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while !studio.place.path("part.state").exists() {
        assert!(started.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert!(studio.place.path("part.state").exists() && !studio.place.path("part.png").exists());
    done(&studio.paint("in/photo.png", "part.png", &[&args[..], &["--save-every", "100", "--resume"]].concat()));
    assert_eq!(studio.open("part.png"), studio.open("whole.png"));
    assert!(!studio.place.path("part.state").exists());
}

/// Every style that came with the program paints at its name alone, in the colours of its painting, each its own picture.
#[test]
fn the_styles_that_came_with_the_program_paint() {
    let studio = Studio::new();
    let mut pictures: Vec<RgbImage> = Vec::new();
    for style in STYLES {
        assert!(style.weights.len() <= 1_000_000, "{}", style.name);
        let out = format!("{}.png", style.name);
        done(&run(&["stylize", &studio.text("in/photo.png"), "--style", style.name, "-o", &studio.text(&out)]));
        let recipe = Recipe::read(&studio.place.path(&out)).unwrap();
        assert_eq!((recipe.method, recipe.nets["net"][0]["bundled"].as_str()), (Method::Fast, Some(style.name)));
        let picture = studio.open(&out);
        assert!(pictures.iter().all(|other| difference(other, &picture) > 5.0), "{}", style.name);
        pictures.push(picture);
    }
    assert!(pictures.len() >= 4);
    // Mixed, and at half the strength.
    let [one, two] = [STYLES[0].name, STYLES[1].name].map(|name| format!("{name}:0.5"));
    let photo = studio.text("in/photo.png");
    done(&run(&["stylize", &photo, "--style", &one, "--style", &two, "-o", &studio.text("mixed.png")]));
    let mixed = studio.open("mixed.png");
    assert!(difference(&mixed, &pictures[0]) < difference(&pictures[1], &pictures[0]));
}

#[test]
fn texts_for_people_and_programs() {
    let help = run(&["stylize", "--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Method: diffusion") && help.stdout.contains("--preserve-color"), "{}", help.stdout);
    assert_eq!(KEYWORD, "impasto-stylize");
    let (plain, json) =
        (done(&run(&["stylize", "--list"])).stdout.clone(), run(&["stylize", "--list", "--json"]).stdout);
    assert_eq!((plain.lines().count(), json.lines().count()), (STYLES.len(), STYLES.len()));
}
