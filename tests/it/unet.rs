//! The UNet against diffusers (tests/reference/unet.py), and what it refuses.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use impasto::nets::unet::{Unet, UnetConfig};
use serde_json::{Value, json};

use crate::{device, fixture};

/// A file's tensors in f32, or bf16/f16 as stored where a test wants that.
pub(crate) fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(name), &device()).unwrap()
}

pub(crate) fn weights(name: &str) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tensors(name), DType::F32, &device())
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

pub(crate) fn load(folder: &str) -> Unet {
    let config = UnetConfig::from_json(&json(&format!("tiny/{folder}/unet/config.json"))).unwrap();
    Unet::new(&config, weights(&format!("tiny/{folder}/unet/diffusion_pytorch_model.safetensors"))).unwrap()
}

/// The largest difference as a part of the wanted values' range.
pub(crate) fn error(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let flat = |xs: &Tensor| xs.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (got, want) = (flat(got), flat(want));
    let low = want.iter().copied().fold(f32::INFINITY, f32::min);
    let high = want.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, |a: f32, b| if a >= b { a } else { b });
    worst / (high - low)
}

/// A tenth of what the project allows (1e-4): two correct f32 implementations of these small nets agree to about 1e-6.
pub(crate) fn close(what: &str, got: &Tensor, want: &Tensor) {
    let error = error(got, want);
    eprintln!("{what}: {error:.1e}");
    let allowed = if device().is_cpu() { 1e-5 } else { 1e-4 };
    assert!(error <= allowed, "{what}: {error:e} of the range");
}

#[test]
fn evaluations_equal_diffusers() {
    let reference = tensors("unet/cases.safetensors");
    let Value::Object(cases) = json("unet/cases.json") else { panic!() };
    for (name, case) in cases {
        let unet = load(case["model"].as_str().unwrap());
        let of = |part: &str| &reference[&format!("{name}.{part}")];
        let context = unet.context(of("text"), &[]).unwrap();
        let out = unet.forward(of("xs"), case["timestep"].as_f64().unwrap(), &context, None).unwrap();
        close(&name, &out, of("out"));
    }
}

#[test]
fn a_distilled_net_takes_the_guidance_as_an_input() {
    let reference = tensors("unet/cases.safetensors");
    let config = UnetConfig::from_json(&json("unet/distilled.json")).unwrap();
    assert_eq!(config.guidance_width(), Some(10));
    let unet = Unet::new(&config, weights("unet/distilled.safetensors")).unwrap();
    let context = unet.context(&reference["distilled.text"], &[]).unwrap();
    let context = unet.guided(context, 8.5).unwrap();
    let out = unet.forward(&reference["distilled.xs"], 799.0, &context, None).unwrap();
    close("distilled", &out, &reference["distilled.out"]);
    let other = unet.guided(context, 2.0).unwrap();
    let out = unet.forward(&reference["distilled.xs"], 799.0, &other, None).unwrap();
    assert!(error(&out, &reference["distilled.out"]) > 1e-3);
}

#[test]
fn half_precision_stays_near() {
    // Half precision rounds after every operation: about a thousandth of the range in f16, eight times that in bf16.
    let reference = tensors("unet/cases.safetensors");
    let config = UnetConfig::from_json(&json("tiny/v-prediction/unet/config.json")).unwrap();
    let file = "tiny/v-prediction/unet/diffusion_pytorch_model.safetensors";
    for (dtype, allowed) in [(DType::F16, 0.005), (DType::BF16, 0.04)] {
        if dtype == DType::BF16 && device().is_cpu() {
            continue; // candle has no bf16 product on the CPU
        }
        let unet = Unet::new(&config, VarBuilder::from_tensors(tensors(file), dtype, &device())).unwrap();
        let context = unet.context(&reference["v-prediction.text"], &[]).unwrap();
        let out = unet.forward(&reference["v-prediction.xs"], 761.0, &context, None).unwrap();
        assert_eq!(out.dtype(), DType::F32);
        let error = error(&out, &reference["v-prediction.out"]);
        eprintln!("{dtype:?}: {error:.1e}");
        assert!(error < allowed, "{dtype:?}: {error}");
    }
}

#[test]
fn cross_attentions_are_numbered_down_up_middle() {
    let names = load("model").cross_attention_names().to_vec();
    assert_eq!(names.len(), 16);
    assert_eq!(names[0], "down_blocks.0.attentions.0.transformer_blocks.0.attn2");
    assert_eq!(names[6], "up_blocks.1.attentions.0.transformer_blocks.0.attn2");
    assert_eq!(names[15], "mid_block.attentions.0.transformer_blocks.0.attn2");
}

#[test]
fn names_do_not_depend_on_where_the_weights_are() {
    let nested: HashMap<String, Tensor> = tensors("tiny/model/unet/diffusion_pytorch_model.safetensors")
        .into_iter()
        .map(|(name, tensor)| (format!("some.prefix.{name}"), tensor))
        .collect();
    let vb = VarBuilder::from_tensors(nested, DType::F32, &device()).pp("some.prefix");
    let config = UnetConfig::from_json(&json("tiny/model/unet/config.json")).unwrap();
    let unet = Unet::new(&config, vb).unwrap();
    assert_eq!(unet.cross_attention_names(), load("model").cross_attention_names());
}

fn refusal(changes: Value) -> String {
    let mut config = json("tiny/model/unet/config.json");
    let Value::Object(changes) = changes else { panic!() };
    config.as_object_mut().unwrap().extend(changes);
    UnetConfig::from_json(&config).unwrap_err().to_string()
}

#[test]
fn configurations_it_cannot_run_are_refused_by_name() {
    let hostile = [
        ("addition_embed_type", json!("text_time")),
        ("class_embed_type", json!("timestep")),
        ("num_class_embeds", json!(1000)),
        ("encoder_hid_dim_type", json!("text_proj")),
        ("only_cross_attention", json!([true, true, true, false])),
        ("dual_cross_attention", json!(true)),
        ("conv_in_kernel", json!(1)),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("time_embedding_type", json!("fourier")),
        ("act_fn", json!("gelu")),
        ("attention_type", json!("gated")),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("mid_block_type", json!(3)),
        ("_class_name", json!("UNetMotionModel")),
        ("down_block_types", json!(["SimpleCrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"])),
        ("down_block_types", json!([])),
        ("down_block_types", json!("DownBlock2D")),
        ("up_block_types", json!(["UpBlock2D"])),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([0, 8, 8, 8])),
        ("block_out_channels", json!([-8, 8, 8, 8])),
        ("block_out_channels", json!([u64::MAX, 8, 8, 8])),
        ("block_out_channels", json!("eight")),
        ("layers_per_block", json!(0)),
        ("layers_per_block", json!([2, 2])),
        ("layers_per_block", json!(1_000_000_000)),
        ("attention_head_dim", json!(0)),
        ("attention_head_dim", json!(3)),
        ("attention_head_dim", json!([8, 8])),
        ("norm_num_groups", json!(0)),
        ("norm_num_groups", json!(5)),
        ("norm_num_groups", Value::Null),
        ("norm_eps", json!(0)),
        ("norm_eps", json!("small")),
        ("cross_attention_dim", json!([32, 64, 32, 32])),
        ("transformer_layers_per_block", json!([[1, 2], 1, 1, 1])),
        ("downsample_padding", json!(2)),
        ("freq_shift", json!(4)),
        ("in_channels", json!(0)),
        ("flip_sin_to_cos", json!("yes")),
    ];
    for (key, value) in hostile {
        let message = refusal(json!({ key: value }));
        assert!(message.contains(key), "{key} = {value}: {message}");
    }
    assert!(UnetConfig::from_json(&json!([])).is_err());
    assert!(
        serde_json::from_value::<UnetConfig>(json!({"act_fn": "mish"})).unwrap_err().to_string().contains("act_fn")
    );
}

#[test]
fn an_empty_configuration_is_the_class_default() {
    let config = UnetConfig::from_json(&json!({})).unwrap();
    assert_eq!((config.in_channels(), config.out_channels(), config.cross_attention_dim()), (4, 4, 1280));
    // Keys nobody knows change nothing.
    assert_eq!(UnetConfig::from_json(&json!({"a_key_of_tomorrow": [1]})).unwrap(), config);
}

#[test]
fn configurations_as_published_are_read() {
    // SD 1.5's has the keys of 2022; distilled and 2.x models have later ones, mostly null.
    let old = json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
        "down_block_types":
            ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    });
    assert_eq!(UnetConfig::from_json(&old).unwrap().cross_attention_dim(), 768);
    let later = json!({
        "attention_head_dim": [5, 10, 20, 20], "num_attention_heads": null, "cross_attention_dim": 1024,
        "use_linear_projection": true, "upcast_attention": true, "dual_cross_attention": false,
        "only_cross_attention": false, "num_class_embeds": null, "addition_embed_type": null, "dropout": 0.0,
        "mid_block_scale_factor": 1.0, "conv_in_kernel": 3, "attention_type": "default",
        "addition_embed_type_num_heads": 64, "mid_block_type": "UNetMidBlock2DCrossAttn", "time_cond_proj_dim": 256
    });
    let later = UnetConfig::from_json(&later).unwrap();
    assert_eq!((later.cross_attention_dim(), later.guidance_width()), (1024, Some(256)));
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let unet = load("model");
    let reference = tensors("unet/cases.safetensors");
    let (xs, text) = (&reference["even.xs"], &reference["even.text"]);
    let context = unet.context(text, &[]).unwrap();
    assert!(unet.forward(&xs.narrow(1, 0, 3).unwrap(), 1.0, &context, None).is_err());
    assert!(unet.forward(&xs.narrow(0, 0, 1).unwrap(), 1.0, &context, None).is_err());
    assert!(unet.forward(&xs.narrow(2, 0, 0).unwrap(), 1.0, &context, None).is_err());
    assert!(unet.forward(&xs.flatten_all().unwrap(), 1.0, &context, None).is_err());
    assert!(unet.forward(xs, f64::NAN, &context, None).is_err());
    assert!(unet.context(&text.narrow(2, 0, 16).unwrap(), &[]).is_err());
    // A context of a net with other layers.
    let distilled = UnetConfig::from_json(&json("unet/distilled.json")).unwrap();
    let distilled = Unet::new(&distilled, weights("unet/distilled.safetensors")).unwrap();
    let other = distilled.context(&reference["distilled.text"], &[]).unwrap();
    assert!(unet.forward(&xs.narrow(0, 0, 1).unwrap(), 1.0, &other, None).is_err());
}

#[test]
fn missing_and_misshapen_weights_are_errors() {
    let file = "tiny/inpaint/unet/diffusion_pytorch_model.safetensors";
    let config = UnetConfig::from_json(&json("tiny/inpaint/unet/config.json")).unwrap();
    let load = |tensors| Unet::new(&config, VarBuilder::from_tensors(tensors, DType::F32, &device()));
    for name in ["conv_in.weight", "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight", "conv_out.bias"] {
        let mut missing = tensors(file);
        missing.remove(name).unwrap();
        assert!(load(missing).unwrap_err().to_string().contains(name));
        let mut misshapen = tensors(file);
        misshapen.insert(name.to_string(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
        assert!(load(misshapen).unwrap_err().to_string().contains(name));
    }
    // The largest net a configuration may ask for, and nothing to load.
    let changed = json!({
        "block_out_channels": vec![65536; 16], "layers_per_block": 64, "transformer_layers_per_block": 64,
        "down_block_types": vec!["CrossAttnDownBlock2D"; 16], "up_block_types": vec!["CrossAttnUpBlock2D"; 16],
    });
    let config = UnetConfig::from_json(&changed).unwrap();
    assert!(Unet::new(&config, VarBuilder::from_tensors(HashMap::new(), DType::F32, &device())).is_err());
}
