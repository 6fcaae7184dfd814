//! IP-Adapter against diffusers (tests/reference/ip_adapter.py), block scales, and what it refuses.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use impasto::nets::ip_adapter::{BlockScales, EncoderOutput, IpAdapter, Variant};
use impasto::nets::unet::{Style, Unet};

use crate::unet::{close, error, json, load as load_unet, tensors};
use crate::{device, fixture};

const TIMESTEP: f64 = 621.0;
const NAMES: [&str; 3] = ["ip-adapter", "ip-adapter-plus", "ip-adapter-full"];

fn from_tensors(tensors: HashMap<String, Tensor>) -> impasto::Result<IpAdapter> {
    let listing: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    IpAdapter::new(&listing, VarBuilder::from_tensors(tensors, DType::F32, &device()))
}

fn load(name: &str) -> IpAdapter {
    from_tensors(tensors(&format!("tiny/{name}.safetensors"))).unwrap()
}

fn evaluate(unet: &Unet, reference: &HashMap<String, Tensor>, styles: &[Style<'_>]) -> Tensor {
    let context = unet.context(&reference["text"], styles).unwrap();
    unet.forward(&reference["xs"], TIMESTEP, &context, None).unwrap()
}

/// Tokens of the first `count` style pictures of a reference case.
fn tokens(adapter: &IpAdapter, name: &str, count: usize, reference: &HashMap<String, Tensor>) -> Tensor {
    let pictures = &reference[&format!("{name}.pictures")];
    let pictures: Vec<Tensor> = (0..count).map(|index| pictures.narrow(0, index, 1).unwrap()).collect();
    adapter.tokens(&pictures, &reference[&format!("{name}.nothing")]).unwrap()
}

#[test]
fn tokens_and_the_net_that_sees_them_equal_diffusers() {
    let reference = tensors("ip_adapter/cases.safetensors");
    let unet = load_unet("model");
    let blocks = BlockScales::Full;
    for name in NAMES {
        let adapter = load(name);
        for (case, count, scale) in [("one", 1, 1.0), ("two", 2, 0.6)] {
            let tokens = tokens(&adapter, name, count, &reference);
            close(&format!("{name}.{case}.tokens"), &tokens, &reference[&format!("{name}.{case}.tokens")]);
            let style = Style { adapter: &adapter, tokens: &tokens, scale, blocks: &blocks };
            let out = evaluate(&unet, &reference, &[style]);
            close(&format!("{name}.{case}.out"), &out, &reference[&format!("{name}.{case}.out")]);
        }
    }
}

#[test]
fn two_adapters_at_once_equal_diffusers() {
    let reference = tensors("ip_adapter/cases.safetensors");
    let unet = load_unet("model");
    let (base, plus) = (load("ip-adapter"), load("ip-adapter-plus"));
    let base_tokens = tokens(&base, "ip-adapter", 1, &reference);
    let plus_tokens = tokens(&plus, "ip-adapter-plus", 1, &reference);
    let out = evaluate(
        &unet,
        &reference,
        &[
            Style { adapter: &base, tokens: &base_tokens, scale: 0.7, blocks: &BlockScales::Full },
            Style { adapter: &plus, tokens: &plus_tokens, scale: 0.9, blocks: &BlockScales::Style },
        ],
    );
    close("both", &out, &reference["both.out"]);
}

#[test]
fn block_scales_equal_diffusers() {
    let reference = tensors("ip_adapter/cases.safetensors");
    let unet = load_unet("model");
    let adapter = load("ip-adapter");
    let tokens = tokens(&adapter, "ip-adapter", 1, &reference);
    let cases = json("ip_adapter/blocks.json");
    let scale = cases["scale"].as_f64().unwrap();
    for (index, text) in cases["blocks"].as_array().unwrap().iter().enumerate() {
        let text = text.as_str().unwrap();
        let blocks: BlockScales = text.parse().unwrap();
        assert_eq!(blocks.to_string().parse::<BlockScales>().unwrap(), blocks);
        let out = evaluate(&unet, &reference, &[Style { adapter: &adapter, tokens: &tokens, scale, blocks: &blocks }]);
        close(text, &out, &reference[&format!("blocks.{index}.out")]);
    }
}

#[test]
fn the_middle_block_is_numbered_last() {
    // Mapping the files' numbers in the order the net runs (down, middle, up) still gives a picture, only a wrong one:
    // swap the middle's matrices (31) with those that would be taken for it (13) and the numbers must move.
    let reference = tensors("ip_adapter/cases.safetensors");
    let mut swapped = tensors("tiny/ip-adapter.safetensors");
    for matrix in ["to_k_ip", "to_v_ip"] {
        let (a, b) = (format!("ip_adapter.31.{matrix}.weight"), format!("ip_adapter.13.{matrix}.weight"));
        let (first, second) = (swapped[&a].clone(), swapped[&b].clone());
        swapped.insert(a, second);
        swapped.insert(b, first);
    }
    let adapter = from_tensors(swapped).unwrap();
    let tokens = tokens(&adapter, "ip-adapter", 1, &reference);
    let style = Style { adapter: &adapter, tokens: &tokens, scale: 1.0, blocks: &BlockScales::Full };
    let out = evaluate(&load_unet("model"), &reference, &[style]);
    assert!(error(&out, &reference["ip-adapter.one.out"]) > 1e-3);
}

#[test]
fn blocks_switched_off_are_not_even_read() {
    // Only the matrices of up_blocks.1 (numbers 13, 15, 17) are there; the listing promises the others.
    let reference = tensors("ip_adapter/cases.safetensors");
    let mut tensors = tensors("tiny/ip-adapter.safetensors");
    let listing: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    tensors.retain(|name, _| !name.starts_with("ip_adapter") || ["13.", "15.", "17."].iter().any(|n| name.contains(n)));
    let adapter = IpAdapter::new(&listing, VarBuilder::from_tensors(tensors, DType::F32, &device())).unwrap();
    let tokens = tokens(&adapter, "ip-adapter", 1, &reference);
    let unet = load_unet("model");
    let style = Style { adapter: &adapter, tokens: &tokens, scale: 0.75, blocks: &BlockScales::Style };
    close("style", &evaluate(&unet, &reference, &[style]), &reference["blocks.0.out"]);
    assert!(unet.context(&reference["text"], &[Style { blocks: &BlockScales::Full, ..style }]).is_err());
    let off = Style { blocks: &BlockScales::Full, scale: 0.0, ..style };
    let plain = evaluate(&unet, &reference, &[]);
    assert_eq!(error(&evaluate(&unet, &reference, &[off]), &plain), 0.0);
}

#[test]
fn variants_say_what_they_need() {
    let facts = |name: &str| {
        let adapter = load(name);
        (adapter.variant(), adapter.needs(), adapter.encoder_width(), adapter.cross_attention_dim())
    };
    assert_eq!(facts("ip-adapter"), (Variant::Base, EncoderOutput::ImageEmbeds, 24, 32));
    assert_eq!(facts("ip-adapter-plus"), (Variant::Plus, EncoderOutput::Penultimate, 32, 32));
    assert_eq!(facts("ip-adapter-full"), (Variant::Full, EncoderOutput::Penultimate, 32, 32));
}

#[test]
fn the_older_prefix_is_accepted() {
    let reference = tensors("ip_adapter/cases.safetensors");
    let renamed = tensors("tiny/ip-adapter.safetensors")
        .into_iter()
        .map(|(name, tensor)| (name.replace("ip_adapter.", "adapter_modules."), tensor))
        .collect();
    let adapter = from_tensors(renamed).unwrap();
    let tokens = tokens(&adapter, "ip-adapter", 1, &reference);
    let style = Style { adapter: &adapter, tokens: &tokens, scale: 1.0, blocks: &BlockScales::Full };
    close("prefix", &evaluate(&load_unet("model"), &reference, &[style]), &reference["ip-adapter.one.out"]);
}

#[test]
fn files_that_are_no_such_adapter_are_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let message = |tensors: HashMap<String, Tensor>| from_tensors(tensors).unwrap_err().to_string();
    let change = |name: &str, change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut tensors = tensors(&format!("tiny/{name}.safetensors"));
        change(&mut tensors);
        message(tensors)
    };
    assert!(message(HashMap::new()).contains("not an IP-Adapter"));
    let face_id = ["proj.0.weight", "proj.2.weight", "norm.weight"];
    let face_id = face_id.map(|name| (format!("image_proj.{name}"), zeros(&[2, 2])));
    assert!(message(HashMap::from(face_id)).contains("FaceID"));
    let face_id_plus = ["perceiver_resampler.proj_in.weight", "norm.weight", "proj.0.weight"];
    let face_id_plus = face_id_plus.map(|name| (format!("image_proj.{name}"), zeros(&[2, 2])));
    assert!(message(HashMap::from(face_id_plus)).contains("FaceID"));

    let no_layers = change("ip-adapter", &|tensors| tensors.retain(|name, _| !name.starts_with("ip_adapter")));
    assert!(no_layers.contains("no attention matrices"), "{no_layers}");
    for (name, tensor) in [
        ("ip-adapter", "ip_adapter.15.to_k_ip.weight"),
        ("ip-adapter", "ip_adapter.31.to_v_ip.weight"),
        ("ip-adapter", "image_proj.norm.weight"),
        ("ip-adapter-plus", "image_proj.layers.2.0.to_kv.weight"),
        ("ip-adapter-plus", "image_proj.norm_out.bias"),
        ("ip-adapter-plus", "image_proj.proj_in.weight"),
        ("ip-adapter-full", "image_proj.proj.0.bias"),
        ("ip-adapter-full", "image_proj.proj.3.bias"),
    ] {
        change(name, &|tensors| drop(tensors.remove(tensor).unwrap()));
        for shape in [&[] as &[usize], &[3], &[3, 5], &[1, 3, 16], &[0, 0], &[0]] {
            change(name, &|tensors| drop(tensors.insert(tensor.to_string(), zeros(shape))));
        }
    }
    // The first layer alone: a file cut short reads as a resampler without layers.
    let no_layer = change("ip-adapter-plus", &|tensors| tensors.retain(|name, _| !name.contains(".layers.")));
    assert!(no_layer.contains("no layers"), "{no_layer}");
}

#[test]
fn adapters_of_other_models_are_refused() {
    let reference = tensors("ip_adapter/cases.safetensors");
    let adapter = load("ip-adapter");
    let tokens = tokens(&adapter, "ip-adapter", 1, &reference);
    let style = Style { adapter: &adapter, tokens: &tokens, scale: 1.0, blocks: &BlockScales::Full };
    // Fewer layers (inpaint has one per block), and another width of text.
    let inpaint = load_unet("inpaint");
    let message = inpaint.context(&reference["text"], &[style]).unwrap_err().to_string();
    assert!(message.contains("16 cross-attention layers"), "{message}");
    let unet = load_unet("model");
    let one = tokens.narrow(0, 0, 1).unwrap();
    assert!(unet.context(&reference["text"], &[Style { tokens: &one, ..style }]).is_err());
    let narrow = tokens.narrow(2, 0, 16).unwrap();
    assert!(unet.context(&reference["text"], &[Style { tokens: &narrow, ..style }]).is_err());

    // Encoders that do not fit say which would.
    let width = adapter.encoder_width();
    let wrong = Tensor::zeros((1, width + 1), DType::F32, &device()).unwrap();
    assert!(adapter.project(&wrong).is_err());
    assert!(adapter.project(&Tensor::zeros((1, 5, width), DType::F32, &device()).unwrap()).is_err());
    assert!(adapter.tokens(&[], &Tensor::zeros((1, width), DType::F32, &device()).unwrap()).is_err());
    assert!(fixture("tiny/ip-adapter.safetensors").exists());
}

#[test]
fn block_names_are_checked() {
    let names = load_unet("model").cross_attention_names().to_vec();
    let resolve = |text: &str, scale: f64| text.parse::<BlockScales>().and_then(|blocks| blocks.resolve(&names, scale));
    assert_eq!(resolve("full", 0.5).unwrap(), vec![0.5; 16]);
    let mut middle = vec![0.0; 16];
    middle[15] = 0.25;
    for text in ["mid=0.5", "mid_block=0.5", "mid_block.attentions.0=0.5", " mid = 0.5 "] {
        assert_eq!(resolve(text, 0.5).unwrap(), middle, "{text}");
    }
    // Later entries override earlier ones; a whole name does not match the beginning of another.
    let scales = resolve("up.1=1,up.1.attentions.2=0.25", 1.0).unwrap();
    assert_eq!(&scales[6..9], &[1.0, 1.0, 0.25]);
    for text in
        ["up_blocks.0=1", "up=1x", "blocks.1=1", "down_blocks.3=1", "up_blocks.1.attentions.3=1", "u=1", "d.1=1"]
    {
        assert!(resolve(text, 1.0).is_err(), "{text}");
    }
    let unknown = resolve("up_blocks.0=1", 1.0).unwrap_err();
    assert!(
        unknown.hint().unwrap().contains("down_blocks.0, down_blocks.1, down_blocks.2, up_blocks.1"),
        "{unknown:?}"
    );
    assert!(unknown.hint().unwrap().contains("up_blocks.3.attentions.2"));
    assert_eq!(unknown.exit_code(), 2);
    for text in ["", ",", "=", "=1", "up.1", "up.1=", "up.1=NaN", "up.1=inf", "up.1=1,", "Style", "style,composition"] {
        assert!(text.parse::<BlockScales>().is_err(), "{text}");
    }
    assert!(resolve("full", f64::NAN).is_err());
    assert!(resolve("mid=1e300", 1e300).is_err());
    assert!(BlockScales::Named(vec![("mid".into(), f64::NAN)]).resolve(&names, 1.0).is_err());
    // A net without these blocks has no such presets.
    assert!(BlockScales::Style.resolve(&names[..2], 1.0).is_err());
    let json = serde_json::to_string(&BlockScales::StyleAndComposition).unwrap();
    assert_eq!(json, "\"style+composition\"");
    assert_eq!(serde_json::from_str::<BlockScales>(&json).unwrap(), BlockScales::StyleAndComposition);
}
