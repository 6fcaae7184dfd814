//! Canny edges against OpenCV, pixel for pixel.

use ::image::{Rgb, RgbImage};
use impasto::control::{Preprocessor, canny};
use impasto::image::read;
use sha2::{Digest, Sha256};

/// The noise of `tests/reference/canny.py`.
fn formula(width: u32, height: u32, modulus: u32) -> RgbImage {
    let mut state = 12345 + 7 * width + height;
    let values = (0..width * height * 3).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) % modulus * (255 / (modulus - 1))) as u8
    });
    RgbImage::from_raw(width, height, values.collect()).unwrap()
}

fn picture(name: &str) -> RgbImage {
    let Some((size, modulus)) = name.split_once('/') else {
        return read::open(crate::fixture(&format!("image/{name}.png"))).unwrap();
    };
    let (width, height) = size.split_once('x').unwrap();
    formula(width.parse().unwrap(), height.parse().unwrap(), modulus.parse().unwrap())
}

#[test]
fn edges_equal_opencv() {
    let cases = std::fs::read(crate::fixture("canny/canny.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&cases).unwrap();
    assert_eq!(cases.len(), (5 + 7 * 4) * 10);
    let mut wrong = Vec::new();
    for case in &cases {
        let (low, high) = (case["low"].as_f64().unwrap(), case["high"].as_f64().unwrap());
        let edges = canny::canny(&picture(case["picture"].as_str().unwrap()), low, high);
        let hash: String = Sha256::digest(edges.as_raw()).iter().map(|byte| format!("{byte:02x}")).collect();
        if hash != case["sha256"].as_str().unwrap() {
            let count = edges.pixels().filter(|pixel| pixel.0[0] > 0).count();
            wrong.push(format!("{count} edge pixels in {case}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn the_preprocessor_gives_three_equal_channels() {
    let chelsea = picture("chelsea");
    let map = Preprocessor::Canny { low: 100.0, high: 200.0 }.apply(&chelsea).unwrap();
    let expected = read::open(crate::fixture("canny/chelsea-100-200.png")).unwrap();
    assert!(expected.pixels().any(|pixel| *pixel == Rgb([255; 3])));
    assert_eq!(map, expected);
    assert_eq!(Preprocessor::None.apply(&chelsea).unwrap(), chelsea);
}

#[test]
fn odd_settings_and_sizes_do_not_panic() {
    let chelsea = picture("chelsea");
    let none = canny::canny(&chelsea, f64::INFINITY, f64::INFINITY);
    assert!(none.pixels().all(|pixel| pixel.0[0] == 0));
    let most = canny::canny(&chelsea, f64::NEG_INFINITY, f64::NEG_INFINITY);
    assert_eq!(most, canny::canny(&chelsea, -1.0, -1.0));
    assert_eq!(canny::canny(&RgbImage::new(0, 7), 1.0, 2.0).dimensions(), (0, 7));
    assert!(Preprocessor::Canny { low: f64::NAN, high: 1.0 }.apply(&chelsea).is_err());
}
