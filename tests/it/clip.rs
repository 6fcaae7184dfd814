//! CLIP's encoders against transformers.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use impasto::Error;
use impasto::nets::clip::{ClipText, ClipTextConfig, ClipVision, ClipVisionConfig};
use impasto::ops::Activation;

use crate::fixture::Fixture;

fn text(name: &str) -> (Fixture, ClipText) {
    let fixture = Fixture::open(name);
    let net = ClipText::new(&fixture.config(), fixture.var_builder()).unwrap();
    (fixture, net)
}

fn vision(name: &str) -> (Fixture, ClipVision) {
    let fixture = Fixture::open(name);
    let net = ClipVision::new(&fixture.config(), fixture.var_builder()).unwrap();
    (fixture, net)
}

#[test]
fn text_equals_transformers() {
    for name in ["clip/text-openai", "clip/text-openclip"] {
        let (fixture, net) = text(name);
        for ids in ["full", "short"] {
            fixture.check(ids, &net.forward(fixture.input(ids), None).unwrap());
        }
        for skip in 0..=3 {
            fixture.check(&format!("skip{skip}"), &net.forward(fixture.input("full"), Some(skip)).unwrap());
        }
    }
}

/// Half precision rounds every layer's result; the sums inside are still taken in single.
#[test]
fn half_precision_stays_close() {
    for (dtype, tolerance) in [(DType::F16, 2e-3), (DType::BF16, 2e-2)] {
        if dtype == DType::BF16 && crate::device().is_cpu() {
            continue; // candle multiplies no bf16 matrices on the CPU
        }
        let fixture = Fixture::open("clip/text-openai");
        let net = ClipText::new(&fixture.config(), fixture.var_builder_as(dtype)).unwrap();
        let encoded = net.forward(fixture.input("full"), None).unwrap();
        assert_eq!(encoded.dtype(), dtype);
        fixture.check_within(tolerance, "full", &encoded);
        let fixture = Fixture::open("clip/vision-openclip");
        let net = ClipVision::new(&fixture.config(), fixture.var_builder_as(dtype)).unwrap();
        fixture.check_within(tolerance, "image_embeds", &net.image_embeds(fixture.input("pixels")).unwrap());
    }
}

#[test]
fn text_refuses_what_does_not_fit() {
    let (fixture, net) = text("clip/text-openai");
    let skipped = net.forward(fixture.input("full"), Some(4)).unwrap_err();
    assert!(matches!(skipped, Error::Usage { .. }), "{skipped}");
    assert_eq!(skipped.to_string(), "--clip-skip: 4 is more than the text encoder's 3 layers");
    let device = crate::device();
    let outside = net.forward(&Tensor::new(&[[1u32, 99]], &device).unwrap(), None).unwrap_err();
    assert!(outside.to_string().contains("token id 99"), "{outside}");
    let long = net.forward(&Tensor::zeros((1, 21), DType::U32, &device).unwrap(), None).unwrap_err();
    assert!(long.to_string().contains("21 tokens"), "{long}");
    net.forward(&Tensor::zeros((1, 0), DType::U32, &device).unwrap(), None).unwrap_err();
    net.forward(&Tensor::zeros(5, DType::U32, &device).unwrap(), None).unwrap_err();
}

#[test]
fn vision_equals_transformers() {
    for name in ["clip/vision-openai", "clip/vision-openclip"] {
        let (fixture, net) = vision(name);
        let pixels = fixture.input("pixels");
        fixture.check("image_embeds", &net.image_embeds(pixels).unwrap());
        fixture.check("penultimate", &net.penultimate(pixels).unwrap());
    }
}

#[test]
fn vision_refuses_other_sizes() {
    let (_, net) = vision("clip/vision-openai");
    for shape in [(1, 3, 30, 28), (1, 3, 28, 30), (1, 4, 30, 30), (0, 3, 30, 30), (1, 3, 0, 0)] {
        let pixels = Tensor::zeros(shape, DType::F32, &crate::device()).unwrap();
        let error = net.image_embeds(&pixels).unwrap_err();
        assert!(error.to_string().contains("30 x 30"), "{error}");
        net.penultimate(&pixels).unwrap_err();
    }
}

#[test]
fn missing_and_misshapen_weights_are_named() {
    let fixture = Fixture::open("clip/text-openai");
    let key = "text_model.encoder.layers.2.mlp.fc2.weight";
    let mut weights = fixture.weights();
    let weight = weights.remove(key).unwrap();
    let device = crate::device();
    let load = |weights| ClipText::new(&fixture.config(), VarBuilder::from_tensors(weights, DType::F32, &device));
    let error = load(weights.clone()).unwrap_err().to_string();
    assert!(error.contains(key), "{error}");
    weights.insert(key.to_owned(), weight.t().unwrap());
    let error = load(weights).unwrap_err().to_string();
    assert!(error.contains(key), "{error}");
    let error = load(std::collections::HashMap::new()).unwrap_err().to_string();
    assert!(error.contains("text_model.embeddings.token_embedding.weight"), "{error}");

    let fixture = Fixture::open("clip/vision-openclip");
    let mut weights = fixture.weights();
    weights.remove("visual_projection.weight").unwrap();
    let load = |weights| ClipVision::new(&fixture.config(), VarBuilder::from_tensors(weights, DType::F32, &device));
    let error = load(weights).unwrap_err().to_string();
    assert!(error.contains("visual_projection.weight"), "{error}");
}

#[test]
fn absurd_configs_are_refused() {
    let fixture = Fixture::open("clip/text-openai");
    for (key, value) in [
        ("num_attention_heads", 0),
        ("num_attention_heads", 5),
        ("num_attention_heads", 64),
        ("hidden_size", 0),
        ("hidden_size", usize::MAX),
        ("intermediate_size", 0),
        ("intermediate_size", usize::MAX),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", usize::MAX),
        ("vocab_size", 0),
        ("max_position_embeddings", 0),
        ("max_position_embeddings", usize::MAX),
    ] {
        let mut config: serde_json::Value = fixture.config();
        config[key] = value.into();
        let config: ClipTextConfig = serde_json::from_value(config).unwrap();
        let error = ClipText::new(&config, fixture.var_builder()).unwrap_err();
        assert!(matches!(error, Error::Usage { .. }), "{key} {value}: {error}");
        assert!(error.to_string().contains(key), "{key} {value}: {error}");
    }
    let fixture = Fixture::open("clip/vision-openai");
    for (key, value) in [
        ("num_attention_heads", 0),
        ("patch_size", 0),
        ("patch_size", 31),
        ("image_size", 0),
        ("image_size", usize::MAX),
        ("num_channels", 0),
        ("projection_dim", 0),
        ("projection_dim", usize::MAX),
    ] {
        let mut config: serde_json::Value = fixture.config();
        config[key] = value.into();
        let config: ClipVisionConfig = serde_json::from_value(config).unwrap();
        let error = ClipVision::new(&config, fixture.var_builder()).unwrap_err();
        assert!(matches!(error, Error::Usage { .. }), "{key} {value}: {error}");
        assert!(error.to_string().contains(key), "{key} {value}: {error}");
    }
}

/// The keys as the Hub's files have them, with others in between that are not ours.
#[test]
fn published_configs_are_read() {
    let sd15 = r#"{"_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu",
        "hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768,
        "torch_dtype": "float32", "vocab_size": 49408}"#;
    let config: ClipTextConfig = serde_json::from_str(sd15).unwrap();
    assert_eq!((config.hidden_size, config.num_attention_heads, config.vocab_size), (768, 12, 49408));
    assert_eq!(config.hidden_act, Activation::QuickGelu);

    let sd21 = r#"{"architectures": ["CLIPTextModel"], "hidden_act": "gelu", "hidden_size": 1024,
        "intermediate_size": 4096, "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "num_attention_heads": 16,
        "num_hidden_layers": 23, "projection_dim": 512, "vocab_size": 49408}"#;
    let config: ClipTextConfig = serde_json::from_str(sd21).unwrap();
    assert_eq!((config.hidden_size, config.num_hidden_layers, config.hidden_act), (1024, 23, Activation::Gelu));

    let vit_h = r#"{"_name_or_path": "./", "architectures": ["CLIPVisionModelWithProjection"], "attention_dropout": 0.0,
        "dropout": 0.0, "hidden_act": "gelu", "hidden_size": 1280, "image_size": 224, "initializer_factor": 1.0,
        "initializer_range": 0.02, "intermediate_size": 5120, "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model", "num_attention_heads": 16, "num_channels": 3, "num_hidden_layers": 32,
        "patch_size": 14, "projection_dim": 1024, "torch_dtype": "float16"}"#;
    let config: ClipVisionConfig = serde_json::from_str(vit_h).unwrap();
    assert_eq!((config.hidden_size, config.projection_dim, config.tokens()), (1280, 1024, 257));
    assert_eq!((config.num_hidden_layers, config.hidden_act), (32, Activation::Gelu));

    // A whole CLIP model's file, as openai/clip-vit-large-patch14 has it: the encoder's part lies inside.
    let whole = r#"{"architectures": ["CLIPModel"], "projection_dim": 768, "text_config": {"hidden_size": 768},
        "vision_config": {"dropout": 0.0, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
        "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768}}"#;
    let config: ClipVisionConfig = serde_json::from_str(whole).unwrap();
    assert_eq!((config.hidden_size, config.projection_dim, config.tokens()), (1024, 768, 257));
    assert_eq!(config.hidden_act, Activation::QuickGelu);

    let unknown = serde_json::from_str::<ClipVisionConfig>(r#"{"hidden_act": "gelu_new"}"#).unwrap_err();
    assert!(unknown.to_string().contains("gelu_new"), "{unknown}");
}
