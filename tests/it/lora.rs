//! LoRA files: that those that do not fit are refused by name, and that a recipe keeps them. That they change what they should is
//! asked in `pictures.rs`.

use crate::fixture;
use crate::program::{Place, refused, run};
use candle_core::{DType, Device, Tensor};
use impasto::weights::{Lora, Model, Part};
use std::collections::HashMap;
use std::path::Path;

fn tiny(name: &str) -> String {
    fixture("tiny").join(name).to_string_lossy().into_owned()
}

fn lora(name: &str) -> String {
    fixture("lora").join(name).to_string_lossy().into_owned()
}

/// Writes tensors of zeros.
fn write(path: &Path, tensors: &[(&str, &[usize])]) {
    let zeros = |(name, shape): &(&str, &[usize])| {
        ((*name).to_owned(), Tensor::zeros(*shape, DType::F32, &Device::Cpu).unwrap())
    };
    candle_core::safetensors::save(&tensors.iter().map(zeros).collect::<HashMap<_, _>>(), path).unwrap();
}

#[test]
fn files_of_other_kinds_are_refused() {
    let place = Place::new();
    let path = place.path("file.safetensors");
    for (name, reason) in [
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", "DoRA"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "SDXL"),
        ("model.diffusion_model.out.2.weight", "not a tensor of a LoRA"),
    ] {
        write(&path, &[(name, &[2, 2])]);
        let error = Lora::open(&path).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("file.safetensors"), "{error}");
    }
}

#[test]
fn files_for_other_models_are_refused() {
    let place = Place::new();
    let path = place.path("file.safetensors");
    let model = Model::open(fixture("tiny/model")).unwrap();
    let module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
    let (down, up) = (format!("{module}.lora_down.weight"), format!("{module}.lora_up.weight"));
    let (down, up) = (down.as_str(), up.as_str());
    let refuse = |tensors: &[(&str, &[usize])], reason: &str| {
        write(&path, tensors);
        let (_, weights) = model.part(Part::Unet).unwrap();
        let error = Lora::open(&path).unwrap().apply(Part::Unet, weights, 1.0).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("file.safetensors"), "{error}");
    };
    refuse(&[(down, &[4, 16])], "only a part");
    refuse(&[(down, &[4, 8]), (up, &[16, 4])], "[4, 8]");
    refuse(&[(down, &[4, 16]), (up, &[320, 4])], "[320, 4]");
    refuse(&[(down, &[4, 16]), (up, &[16, 5])], "shape");
    refuse(&[(down, &[]), (up, &[16, 4])], "shape");
    refuse(&[("unet.nowhere.lora_A.weight", &[4, 16]), ("unet.nowhere.lora_B.weight", &[16, 4])], "nowhere");
    write(&path, &[(down, &[4, 16]), (up, &[16, 4])]);
    for scale in [f64::NAN, 1e9] {
        let (_, weights) = model.part(Part::Unet).unwrap();
        assert!(Lora::open(&path).unwrap().apply(Part::Unet, weights, scale).is_err());
    }
}

#[test]
fn the_recipe_keeps_the_loras() {
    let place = Place::new();
    let (out, again) = (place.text("out.png"), place.text("again.png"));
    let (model, kohya, peft) = (tiny("model"), lora("kohya.safetensors"), lora("peft.safetensors:0.5"));
    let paint = |out: &str, more: &[&str]| {
        let args = ["generate", "-p", "a harbour", "--model", &model, "--seed", "3", "--steps", "2", "-o", out];
        let small = ["--width", "32", "--height", "32"];
        let run = run(&[&args[..], &small, more].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        std::fs::read(out).unwrap()
    };
    let with = paint(&out, &["--lora", &kohya, "--lora", &peft]);
    let texts = impasto::image::read::png_text(&out).unwrap();
    assert!(
        texts.iter().any(|(_, text)| text.contains("kohya.safetensors:1") && text.contains("peft.safetensors:0.5"))
    );
    let repeated = run(&["generate", "--from", &out, "-o", &again]);
    assert_eq!(repeated.code, Some(0), "{}", repeated.stderr);
    assert_eq!(std::fs::read(&again).unwrap(), with);
    let pixels = |bytes: &[u8]| ::image::load_from_memory(bytes).unwrap().into_rgb8();
    assert_ne!(pixels(&paint(&again, &[])), pixels(&with));
    assert_eq!(pixels(&paint(&again, &["--lora", &format!("{kohya}:0")])), pixels(&paint(&out, &[])));
}

#[test]
fn a_lora_that_is_none_is_refused_on_the_command_line() {
    let place = Place::new();
    let (out, model) = (place.text("out.png"), tiny("model"));
    let paint =
        |lora: &str| run(&["generate", "-p", "x", "--model", &model, "--steps", "1", "--lora", lora, "-o", &out]);
    refused(&paint("missing.safetensors"), 2, "missing.safetensors");
    refused(&paint(&lora("kohya.safetensors:nan")), 2, "--lora");
    refused(&paint(&tiny("ip-adapter.safetensors")), 1, "ip-adapter.safetensors");
    refused(&paint("lcm-lora-sd51"), 2, "--lora");
    assert!(!place.path("out.png").exists());
}
