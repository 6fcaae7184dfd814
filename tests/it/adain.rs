//! AdaIN against torch (tests/reference/adain.py).

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use impasto::nets::adain::original::{Original, Statistics};
use impasto::nets::strips::Rows;
use impasto::nets::vgg::{Backbone, Kind};
use impasto::ops::Pooling;

use crate::unet::{error, tensors};

fn part(all: &HashMap<String, Tensor>, prefix: &str) -> VarBuilder<'static> {
    let strip = |(name, xs): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), xs.clone()));
    VarBuilder::from_tensors(all.iter().filter_map(strip).collect(), DType::F32, &crate::device())
}

fn open(all: &HashMap<String, Tensor>) -> impasto::Result<Original> {
    let encoder = Backbone::new(Kind::VggNormalised, Pooling::Max, part(all, "encoder."))?;
    Original::new(encoder, part(all, "decoder."))
}

#[test]
fn painted_blended_and_masked_pictures_equal_torch() {
    let all = tensors("adain/original.safetensors");
    let net = open(&all).unwrap();
    let [first, second] = [0, 1].map(|style| net.encode_style(&all[&format!("style.{style}")]).unwrap());
    let blend = Statistics::blend(&[(first.clone(), 1.0), (second.clone(), 3.0)]).unwrap();
    for size in ["24x32", "27x21"] {
        let get = |name: &str| &all[&format!("{name}.{size}")];
        for (name, style, strength, mask) in [
            ("full", &first, 1.0, None),
            ("none", &first, 0.0, None),
            ("part", &second, 0.6, None),
            ("blend", &blend, 1.0, None),
            ("masked", &first, 0.8, Some(get("mask"))),
        ] {
            let painted = net.forward(get("content"), style, strength, mask).unwrap();
            let difference = error(&painted, get(name));
            assert!(difference < 1e-4, "{name} at {size}: {difference:e}");
        }
    }
}

#[test]
fn strips_come_to_the_same_as_the_whole() {
    let all = tensors("adain/original.safetensors");
    let net = open(&all).unwrap();
    let style = net.encode_style(&all["style.0"]).unwrap();
    for (height, width) in [(257, 19), (264, 16), (270, 24)] {
        let picture = Tensor::rand(0f32, 1.0, (1, 3, height, width), &crate::device()).unwrap();
        let mask = Tensor::rand(0f32, 1.0, (1, 1, height, width), &crate::device()).unwrap();
        let whole = net.forward(&picture, &style, 0.7, Some(&mask)).unwrap();
        let read = |rows: Range<usize>| Ok(picture.narrow(2, rows.start, rows.len())?.contiguous()?);
        // One pixel's worth of memory sends everything to a file, many keep it.
        for pixels in [1, 90] {
            let mut parts = Vec::new();
            let mut on_rows = |_, rows| {
                parts.push(rows);
                Ok(())
            };
            let rows = Rows { height, width, pixels, read: &read };
            net.forward_rows(&rows, &style, 0.7, Some(&mask), &mut on_rows, &mut |_, _| Ok(())).unwrap();
            assert!(parts.len() > 2);
            let difference = error(&Tensor::cat(&parts, 2).unwrap(), &whole);
            assert!(difference < 1e-4, "{height} x {width}: {difference:e}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_tiny_pictures_are_not() {
    let all = tensors("adain/original.safetensors");
    let net = open(&all).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &crate::device()).unwrap();
    let style = net.encode_style(&zeros(&[1, 3, 1, 1])).unwrap();
    let painted = net.forward(&zeros(&[1, 3, 3, 50]), &style, 1.0, None).unwrap();
    assert_eq!(painted.dims(), [1, 3, 3, 50]);
    assert!(painted.sum_all().unwrap().to_scalar::<f32>().unwrap().is_finite());
    assert!(net.forward(&zeros(&[1, 3, 20, 20]), &style, 1.5, None).is_err());
    assert!(net.forward(&zeros(&[1, 3, 20, 20]), &style, 1.0, Some(&zeros(&[1, 1, 20, 21]))).is_err());
    assert!(net.forward(&zeros(&[1, 3, 0, 20]), &style, 1.0, None).is_err());
    assert!(Statistics::blend(&[]).is_err());
    assert!(Statistics::blend(&[(style.clone(), -1.0), (style, 2.0)]).is_err());
    for (name, shape) in [
        ("decoder.5.weight", &[6, 5, 3, 3][..]),
        ("decoder.5.weight", &[6, 6, 1, 1]),
        ("decoder.28.weight", &[4, 3, 3, 3]),
    ] {
        let mut wrong = all.clone();
        wrong.insert(name.to_owned(), zeros(shape));
        assert!(open(&wrong).is_err(), "{name} {shape:?}");
    }
}
