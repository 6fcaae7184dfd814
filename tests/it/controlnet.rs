//! ControlNet against diffusers (tests/reference/controlnet.py), and what it refuses.

use candle_core::Tensor;
use impasto::nets::controlnet::{ControlNet, ControlNetConfig, Residuals};
use serde_json::{Value, json};

use crate::unet::{close, error, json, load as load_unet, tensors, weights};

const TIMESTEP: f64 = 333.5;
const SCALE: f64 = 0.6;

fn load(changes: Value) -> ControlNet {
    let mut config = json("tiny/controlnet/config.json");
    let Value::Object(changes) = changes else { panic!() };
    config.as_object_mut().unwrap().extend(changes);
    let config = ControlNetConfig::from_json(&config).unwrap();
    ControlNet::new(&config, weights("tiny/controlnet/diffusion_pytorch_model.safetensors")).unwrap()
}

fn check(name: &str, residuals: &Residuals, reference: &std::collections::HashMap<String, Tensor>) {
    assert_eq!(residuals.down.len(), 12);
    for index in [0, 4, 11] {
        close(&format!("{name}.{index}"), &residuals.down[index], &reference[&format!("{name}.{index}")]);
    }
    close(&format!("{name}.mid"), &residuals.mid, &reference[&format!("{name}.mid")]);
}

#[test]
fn residuals_and_the_net_they_steer_equal_diffusers() {
    let reference = tensors("controlnet/cases.safetensors");
    let (xs, text) = (&reference["xs"], &reference["text"]);
    let (unet, controlnet) = (load_unet("model"), load(json!({})));
    let hint = controlnet.hint(&reference["map"]).unwrap();
    let context = controlnet.context(text).unwrap();
    let residuals = controlnet.forward(xs, TIMESTEP, &context, &hint, SCALE).unwrap();
    check("plain", &residuals, &reference);
    let context = unet.context(text, &[]).unwrap();
    let out = unet.forward(xs, TIMESTEP, &context, Some(&residuals)).unwrap();
    close("plain.out", &out, &reference["plain.out"]);
    assert!(error(&unet.forward(xs, TIMESTEP, &context, None).unwrap(), &reference["plain.out"]) > 1e-2);

    // Two of half the strength are one of the whole.
    let halves = controlnet.forward(xs, TIMESTEP, &controlnet.context(text).unwrap(), &hint, SCALE / 2.0).unwrap();
    let out = unet.forward(xs, TIMESTEP, &context, Some(&halves.plus(&halves).unwrap())).unwrap();
    close("two halves", &out, &reference["plain.out"]);
}

#[test]
fn guess_mode_equals_diffusers() {
    let reference = tensors("controlnet/cases.safetensors");
    let (unet, controlnet) = (load_unet("model"), load(json!({})));
    let conditional = |name: &str| reference[name].narrow(0, 1, 1).unwrap();
    let hint = controlnet.hint(&reference["map"]).unwrap();
    let context = controlnet.context(&conditional("text")).unwrap();
    let residuals = controlnet.forward_guess(&conditional("xs"), TIMESTEP, &context, &hint, SCALE).unwrap();
    check("guess", &residuals, &reference);
    let context = unet.context(&reference["text"], &[]).unwrap();
    let residuals = residuals.after_zeros().unwrap();
    close(
        "guess.out",
        &unet.forward(&reference["xs"], TIMESTEP, &context, Some(&residuals)).unwrap(),
        &reference["guess.out"],
    );
}

#[test]
fn channel_order_and_pooling_equal_diffusers() {
    let reference = tensors("controlnet/cases.safetensors");
    let conditional = |name: &str| reference[name].narrow(0, 1, 1).unwrap();
    let bgr = load(json!({"controlnet_conditioning_channel_order": "bgr"}));
    let hint = bgr.hint(&reference["map"]).unwrap();
    let context = bgr.context(&conditional("text")).unwrap();
    check("bgr", &bgr.forward(&conditional("xs"), TIMESTEP, &context, &hint, SCALE).unwrap(), &reference);

    let pooled = load(json!({"global_pool_conditions": true}));
    assert!(pooled.config().global_pool());
    let hint = pooled.hint(&reference["map"]).unwrap();
    let context = pooled.context(&reference["text"]).unwrap();
    let residuals = pooled.forward(&reference["xs"], TIMESTEP, &context, &hint, SCALE).unwrap();
    check("pooled", &residuals, &reference);
    let unet = load_unet("model");
    let context = unet.context(&reference["text"], &[]).unwrap();
    close(
        "pooled.out",
        &unet.forward(&reference["xs"], TIMESTEP, &context, Some(&residuals)).unwrap(),
        &reference["pooled.out"],
    );
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let reference = tensors("controlnet/cases.safetensors");
    let (xs, text, map) = (&reference["xs"], &reference["text"], &reference["map"]);
    let controlnet = load(json!({}));
    let context = controlnet.context(text).unwrap();
    assert!(controlnet.hint(&map.narrow(1, 0, 1).unwrap()).is_err());
    // A map of another size than the picture.
    let hint = controlnet.hint(&map.narrow(2, 0, 64).unwrap()).unwrap();
    let message = controlnet.forward(xs, TIMESTEP, &context, &hint, SCALE).unwrap_err().to_string();
    assert!(message.contains("structure map"), "{message}");
    for scale in [f64::NAN, f64::INFINITY] {
        assert!(controlnet.forward(xs, TIMESTEP, &context, &controlnet.hint(map).unwrap(), scale).is_err());
    }
    // The UNet's context, or a ControlNet with another number of connections.
    let hint = controlnet.hint(map).unwrap();
    let unet = load_unet("model");
    assert!(controlnet.forward(xs, TIMESTEP, &unet.context(text, &[]).unwrap(), &hint, SCALE).is_err());
    let mut residuals = controlnet.forward(xs, TIMESTEP, &context, &hint, SCALE).unwrap();
    residuals.down.swap(0, 11);
    assert!(unet.forward(xs, TIMESTEP, &unet.context(text, &[]).unwrap(), Some(&residuals)).is_err());
    residuals.down.pop();
    let message = unet.forward(xs, TIMESTEP, &unet.context(text, &[]).unwrap(), Some(&residuals)).unwrap_err();
    assert!(message.to_string().contains("11 residuals for 12"), "{message}");

    for (key, value) in [
        ("controlnet_conditioning_channel_order", json!("rbg")),
        ("conditioning_embedding_out_channels", json!([])),
        ("conditioning_embedding_out_channels", json!([0])),
        ("conditioning_embedding_out_channels", json!(vec![16; 9])),
        ("conditioning_channels", json!(0)),
        ("addition_embed_type", json!("text_time")),
        ("_class_name", json!("UNet2DConditionModel")),
        ("global_pool_conditions", json!(1)),
    ] {
        let mut config = json("tiny/controlnet/config.json");
        config[key] = value;
        assert!(ControlNetConfig::from_json(&config).unwrap_err().to_string().contains(key), "{key}");
    }
}
