//! Colours, statistics and losses against numpy and torch (tests/reference/style.py).

use std::collections::HashMap;

use ::image::RgbImage;
use candle_core::{Device, Tensor};
use impasto::style::colour::{PreserveColor, finish, prepare_style};

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
