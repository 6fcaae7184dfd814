//! Depth Anything against transformers, with weights both sides make from a formula.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use impasto::control::Preprocessor;
use impasto::control::depth::{Depth, Processor, Size};
use impasto::image::read;
use impasto::nets::depth::{DepthConfig, DepthNet, hub_name};
use impasto::ops::Resample;
use serde_json::Value;

/// The formula of `tests/reference/depth.py`: values in -1..1 from the index and the name.
pub(crate) fn noise(name: &str, count: usize) -> Vec<f32> {
    let crc = !name.bytes().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    });
    let value = |i: u32| {
        let mut x = i.wrapping_mul(2_654_435_761).wrapping_add(crc);
        for _ in 0..2 {
            x = (x ^ (x >> 16)).wrapping_mul(0x045d_9f3b);
        }
        ((x ^ (x >> 16)) >> 8) as f32 * 2f32.powi(-23) - 1.0
    };
    (0..count as u32).map(value).collect()
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(crate::fixture(&format!("depth/{name}.json"))).unwrap()).unwrap()
}

fn expected(name: &str) -> Tensor {
    let path = crate::fixture("depth/depth.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap().remove(name).unwrap()
}

/// Configuration and weights, by the names of the Hub's files.
fn model(name: &str) -> (DepthConfig, HashMap<String, Tensor>) {
    let json = json(name);
    let weight = |entry: &Value| {
        let name = entry["name"].as_str().unwrap();
        let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
        let [centre, width] = ["centre", "width"].map(|key| entry[key].as_f64().unwrap() as f32);
        let values = noise(name, shape.iter().product()).into_iter().map(|value| value * width + centre).collect();
        (name.to_owned(), Tensor::from_vec::<_, f32>(values, shape, &crate::device()).unwrap())
    };
    let weights = json["tensors"].as_array().unwrap().iter().map(weight).collect();
    (serde_json::from_value(json["config"].clone()).unwrap(), weights)
}

fn net(config: &DepthConfig, weights: HashMap<String, Tensor>) -> impasto::Result<DepthNet> {
    DepthNet::new(config, VarBuilder::from_tensors(weights, DType::F32, &crate::device()))
}

fn pixels(height: usize, width: usize) -> Tensor {
    let values = noise(&format!("{height}x{width}"), 3 * height * width).into_iter().map(|value| value * 2.0).collect();
    Tensor::from_vec::<_, f32>(values, (1, 3, height, width), &crate::device()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Within 1e-4 of the expected values' range.
fn assert_close(got: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (values(got), values(expected));
    let largest = expected.iter().copied().fold(0f32, f32::max);
    let positive = expected.iter().filter(|&&value| value > 0.0).count();
    assert!(largest > 0.5 && positive * 2 > expected.len(), "{what}: the fixture says nothing");
    let worst = got
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0f32, |a, b| if b > a || b.is_nan() { b } else { a });
    eprintln!("{what}: largest difference {worst:e} in a range of {largest}");
    assert!(worst <= 1e-4 * largest, "{what}: largest difference {worst:e} in a range of {largest}");
}

#[test]
fn the_tiny_net_equals_transformers() {
    let (config, weights) = model("tiny");
    let net = net(&config, weights).unwrap();
    // The trained grid, another shape, and one patch high.
    for (height, width) in [(70, 70), (56, 98), (14, 28)] {
        let got = net.forward(&pixels(height, width)).unwrap();
        assert_close(&got, &expected(&format!("tiny/{height}x{width}")), &format!("{height} x {width}"));
    }
    assert!(net.forward(&pixels(70, 71)).is_err());
}

#[test]
fn the_small_net_equals_transformers() {
    let (config, weights) = model("small");
    let published = DepthConfig::published(384).unwrap();
    assert_eq!(published.backbone_config.out_indices, config.backbone_config.out_indices);
    // What the Hub's configuration says of the net is what the original files stand for without one.
    let same = DepthConfig { backbone_config: config.backbone_config.clone(), ..published };
    assert_eq!(same, config);
    let got = net(&config, weights).unwrap().forward(&pixels(98, 140)).unwrap();
    assert_close(&got, &expected("small/98x140"), "small");
}

/// A name of the original files, made from the Hub's by the rules of transformers' conversion script.
fn original_name(name: &str) -> String {
    let Some(rest) = name.strip_prefix("backbone.") else {
        let mut parts: Vec<&str> = name.split('.').collect();
        let last = parts.pop().unwrap();
        let number = |text: &str| text.parse::<usize>().unwrap();
        return match parts.as_slice() {
            ["neck", "reassemble_stage", "layers", i, "projection"] => format!("depth_head.projects.{i}.{last}"),
            ["neck", "reassemble_stage", "layers", i, "resize"] => format!("depth_head.resize_layers.{i}.{last}"),
            ["neck", "convs", i] => format!("depth_head.scratch.layer{}_rn.{last}", number(i) + 1),
            ["neck", "fusion_stage", "layers", i, "projection"] => {
                format!("depth_head.scratch.refinenet{}.out_conv.{last}", 4 - number(i))
            }
            ["neck", "fusion_stage", "layers", i, unit, conv] => {
                let unit = unit.strip_prefix("residual_layer").unwrap();
                let conv = conv.strip_prefix("convolution").unwrap();
                format!("depth_head.scratch.refinenet{}.resConfUnit{unit}.conv{conv}.{last}", 4 - number(i))
            }
            ["head", "conv1"] => format!("depth_head.scratch.output_conv1.{last}"),
            ["head", "conv2"] => format!("depth_head.scratch.output_conv2.0.{last}"),
            ["head", "conv3"] => format!("depth_head.scratch.output_conv2.2.{last}"),
            other => panic!("{other:?}"),
        };
    };
    let rest = rest
        .replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        .replace("embeddings.position_embeddings", "pos_embed")
        .replace("embeddings.", "")
        .replace("encoder.layer.", "blocks.")
        .replace("attention.output.dense", "attn.proj")
        .replace("layer_scale1.lambda1", "ls1.gamma")
        .replace("layer_scale2.lambda1", "ls2.gamma")
        .replace("layernorm", "norm");
    format!("pretrained.{rest}")
}

#[test]
fn the_original_files_give_the_same_depth() {
    let (config, weights) = model("tiny");
    let mut original = HashMap::new();
    for layer in 0..config.backbone_config.num_hidden_layers {
        for last in ["weight", "bias"] {
            let part =
                |name: &str| &weights[&format!("backbone.encoder.layer.{layer}.attention.attention.{name}.{last}")];
            let qkv = Tensor::cat(&[part("query"), part("key"), part("value")], 0).unwrap();
            original.insert(format!("pretrained.blocks.{layer}.attn.qkv.{last}"), qkv);
        }
    }
    for (name, tensor) in &weights {
        if !name.contains("attention.attention") {
            let original_name = original_name(name);
            assert_eq!(&hub_name(&original_name).unwrap(), name, "from {original_name}");
            assert_eq!(&hub_name(name).unwrap(), name);
            original.insert(original_name, tensor.clone());
        }
    }
    let renamed = original.into_iter().map(|(name, tensor)| (hub_name(&name).unwrap(), tensor)).collect();
    let got = net(&config, renamed).unwrap().forward(&pixels(56, 98)).unwrap();
    assert_close(&got, &expected("tiny/56x98"), "from original names");

    // And transformers 5's own attribute names.
    let five = |(name, tensor): (String, Tensor)| {
        let name = name
            .replace("attention.attention.query", "attention.q_proj")
            .replace("attention.attention.key", "attention.k_proj")
            .replace("attention.attention.value", "attention.v_proj")
            .replace("attention.output.dense", "attention.o_proj");
        (name, tensor)
    };
    let got = net(&config, weights.into_iter().map(five).collect()).unwrap().forward(&pixels(56, 98)).unwrap();
    assert_close(&got, &expected("tiny/56x98"), "from attribute names");
}

#[test]
fn maps_equal_the_depth_estimation_pipeline() {
    let (config, weights) = model("tiny");
    let processor = Processor { size: Size { height: 84, width: 84 }, ..Processor::default() };
    let depth =
        Preprocessor::Depth(Arc::new(Depth::new(net(&config, weights).unwrap(), processor.clone(), crate::device())));
    for name in ["astronaut", "rocket"] {
        let picture = read::open(crate::fixture(&format!("image/{name}.png"))).unwrap();
        let pixels = processor.preprocess(&picture).unwrap();
        let wanted = expected(&format!("pixels/{name}"));
        assert_eq!(pixels.dims(), wanted.dims());
        let different = values(&pixels).iter().zip(values(&wanted)).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(different, 0, "{name}");

        let map = depth.apply(&picture).unwrap();
        assert_eq!(map.dimensions(), picture.dimensions());
        let wanted = expected(&format!("map/{name}")).flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let (mut different, mut worst) = (0, 0);
        for (pixel, wanted) in map.pixels().zip(&wanted) {
            assert!(pixel.0[0] == pixel.0[1] && pixel.0[0] == pixel.0[2]);
            different += usize::from(pixel.0[0] != *wanted);
            worst = worst.max(pixel.0[0].abs_diff(*wanted));
        }
        eprintln!("{name}: {different} of {} pixels differ, at most by {worst}", wanted.len());
        // The pipeline cuts to whole levels, so a last bit can cost one.
        assert!(worst <= 1 && different * 200 < wanted.len(), "{name}: {different} pixels differ, at most by {worst}");
    }
}

#[test]
fn metric_models_are_turned_round() {
    let (mut config, weights) = model("tiny");
    let picture = read::open(crate::fixture("image/rocket.png")).unwrap();
    let processor = Processor { size: Size { height: 84, width: 84 }, ..Processor::default() };
    let map = |config: &DepthConfig| {
        let net = net(config, weights.clone()).unwrap();
        Depth::new(net, processor.clone(), crate::device()).map(&picture).unwrap()
    };
    let relative = map(&config);
    config.depth_estimation_type = impasto::nets::depth::Estimation::Metric;
    config.max_depth = Some(20.0);
    let metric = map(&config);
    // The same order of numbers, so what was near is far.
    let brightest = |map: &::image::GrayImage| map.pixels().position(|pixel| pixel.0[0] == 255).unwrap();
    assert_eq!(metric.as_raw()[brightest(&relative)], 0);
}

#[test]
fn pictures_are_fitted_as_transformers_fits_them() {
    let cases: Vec<[usize; 4]> = serde_json::from_value(json("fitted")).unwrap();
    assert_eq!(cases.len(), 8);
    for [width, height, to_width, to_height] in cases {
        let picture = ::image::RgbImage::new(width as u32, height as u32);
        let pixels = Processor::default().preprocess(&picture).unwrap();
        assert_eq!(pixels.dims(), [1, 3, to_height, to_width], "{width} x {height}");
    }
    let thin = ::image::RgbImage::new(500, 20_000);
    assert!(Processor::default().preprocess(&thin).unwrap_err().to_string().contains("too long and thin"));
    let other = Processor { resample: 2, ..Processor::default() };
    assert!(other.preprocess(&::image::RgbImage::new(9, 9)).is_err());
}

#[test]
fn configurations_that_contradict_themselves_are_refused() {
    let (config, weights) = model("tiny");
    let refused = |change: &dyn Fn(&mut DepthConfig)| {
        let mut config = config.clone();
        change(&mut config);
        assert!(net(&config, weights.clone()).is_err(), "{config:?}");
    };
    refused(&|config| config.neck_hidden_sizes.clear());
    refused(&|config| config.reassemble_factors = vec![4.0; 3]);
    refused(&|config| config.reassemble_factors[0] = f64::NAN);
    refused(&|config| config.reassemble_factors[3] = 0.0);
    refused(&|config| config.head_in_index = 4);
    refused(&|config| config.head_in_index = i64::MIN);
    refused(&|config| config.patch_size = 0);
    refused(&|config| config.backbone_config.num_attention_heads = 0);
    refused(&|config| config.backbone_config.hidden_size = usize::MAX);
    refused(&|config| config.backbone_config.image_size = usize::MAX);
    refused(&|config| config.backbone_config.out_indices = Some(vec![1, 2, 3, 5]));
    refused(&|config| config.backbone_config.out_indices = Some(vec![1, 2, 3, i64::MIN]));
    refused(&|config| config.backbone_config.use_swiglu_ffn = true);
    let by_name: DepthConfig = {
        let mut config = json("tiny")["config"].clone();
        config["backbone_config"].as_object_mut().unwrap().remove("out_indices");
        serde_json::from_value(config).unwrap()
    };
    assert!(by_name.backbone_config.out_indices.is_none());
    assert!(net(&by_name, weights.clone()).is_ok());
}

#[test]
fn resampling_keeps_lines_straight() {
    // Torch's values of interpolate on 0, 1, 4, 9.
    let xs = Tensor::from_slice(&[0f32, 1., 4., 9.], (1, 1, 1, 4), &crate::device()).unwrap();
    let resampled = |method: Resample, width| values(&method.apply(&xs, 1, width).unwrap());
    assert_eq!(resampled(Resample::BilinearAligned, 7), [0.0, 0.5, 1.0, 2.5, 4.0, 6.5, 9.0]);
    assert_eq!(resampled(Resample::Bilinear, 8), [0.0, 0.25, 0.75, 1.75, 3.25, 5.25, 7.75, 9.0]);
    assert_eq!(resampled(Resample::Bilinear, 2), [0.5, 6.5]);
    for method in [Resample::BilinearAligned, Resample::Bilinear, Resample::Bicubic] {
        assert_eq!(method.apply(&xs, 3, 4).unwrap().dims(), [1, 1, 3, 4]);
        assert!(method.apply(&xs, 0, 4).is_err());
    }
}

#[test]
fn a_folder_opens_as_a_preprocessor() {
    let folder = tempfile::tempdir().unwrap();
    let (config, weights) = model("tiny");
    candle_core::safetensors::save(&weights, folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), json("tiny")["config"].to_string()).unwrap();
    let processor = r#"{"size": {"height": 70, "width": 70}, "ensure_multiple_of": 14}"#;
    std::fs::write(folder.path().join("preprocessor_config.json"), processor).unwrap();

    let picture = ::image::RgbImage::from_fn(90, 60, |x, y| ::image::Rgb([x as u8, y as u8, (x * y) as u8]));
    let opened = impasto::pipeline::open_depth(folder.path(), &crate::device()).unwrap();
    let processor = Processor { size: Size { height: 70, width: 70 }, ..Default::default() };
    let built = Depth::new(net(&config, weights).unwrap(), processor, crate::device());
    assert_eq!(opened.apply(&picture).unwrap(), Preprocessor::Depth(Arc::new(built)).apply(&picture).unwrap());

    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = impasto::pipeline::open_depth(folder.path(), &crate::device()).unwrap_err().to_string();
    assert!(error.contains("not a Depth Anything"), "{error}");
}
