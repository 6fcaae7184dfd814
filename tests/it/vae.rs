//! The autoencoder against diffusers.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use impasto::Error;
use impasto::nets::vae::{Vae, VaeConfig};

use crate::fixture::Fixture;

fn open(name: &str) -> (Fixture, Vae) {
    let fixture = Fixture::open(name);
    let net = Vae::new(&fixture.config(), fixture.var_builder()).unwrap();
    (fixture, net)
}

#[test]
fn encoding_and_decoding_equal_diffusers() {
    let cases: [(&str, &[&str]); 3] =
        [("vae/newer", &["even", "odd", "large"]), ("vae/older", &["even"]), ("vae/bare", &["odd"])];
    for (name, sizes) in cases {
        let (fixture, net) = open(name);
        for size in sizes {
            let posterior = net.encode(fixture.input(&format!("{size}.pixels"))).unwrap();
            fixture.check(&format!("{size}.mean"), &posterior.mode());
            fixture.check(&format!("{size}.logvar"), &posterior.logvar);
            let sample = posterior.sample(fixture.input(&format!("{size}.noise"))).unwrap();
            fixture.check(&format!("{size}.sample"), &sample);
            let pixels = net.decode(fixture.input(&format!("{size}.latents"))).unwrap();
            fixture.check(&format!("{size}.decoded"), &pixels);
        }
    }
}

/// Half precision rounds every layer's result; the sums inside are still taken in single.
#[test]
fn half_precision_stays_close() {
    for (dtype, tolerance) in [(DType::F16, 5e-3), (DType::BF16, 5e-2)] {
        if dtype == DType::BF16 && crate::device().is_cpu() {
            continue; // candle multiplies no bf16 matrices on the CPU
        }
        let fixture = Fixture::open("vae/newer");
        let net = Vae::new(&fixture.config(), fixture.var_builder_as(dtype)).unwrap();
        let posterior = net.encode(fixture.input("even.pixels")).unwrap();
        assert_eq!(posterior.mean.dtype(), dtype);
        fixture.check_within(tolerance, "even.mean", &posterior.mean);
        fixture.check_within(tolerance, "even.decoded", &net.decode(fixture.input("even.latents")).unwrap());
        let tiled = net.decode_tiled(fixture.input("large.latents"), &mut |_, _| Ok(())).unwrap();
        fixture.check_within(tolerance, "tiled.decoded", &tiled);
    }
}

#[test]
fn tiles_equal_diffusers() {
    let (fixture, net) = open("vae/newer");
    let mut reports = Vec::new();
    let mut on_tile = |done, total| {
        reports.push((done, total));
        Ok(())
    };
    let posterior = net.encode_tiled(fixture.input("large.pixels"), &mut on_tile).unwrap();
    fixture.check("tiled.mean", &posterior.mean);
    fixture.check("tiled.logvar", &posterior.logvar);
    // 60 x 84 in steps of 24.
    assert_eq!(reports, (1..=12).map(|done| (done, 12)).collect::<Vec<_>>());

    let pixels = net.decode_tiled(fixture.input("large.latents"), &mut |_, _| Ok(())).unwrap();
    fixture.check("tiled.decoded", &pixels);
}

#[test]
fn small_pictures_are_one_tile() {
    let (fixture, net) = open("vae/newer");
    let pixels = fixture.input("large.pixels").narrow(2, 0, 32).unwrap().narrow(3, 0, 24).unwrap();
    let latents = fixture.input("large.latents").narrow(2, 0, 8).unwrap().narrow(3, 0, 8).unwrap();
    let mut reports = Vec::new();
    let mut on_tile = |done, total| {
        reports.push((done, total));
        Ok(())
    };
    let tiled = net.encode_tiled(&pixels, &mut on_tile).unwrap().mean;
    let whole = net.encode(&pixels).unwrap().mean;
    assert_eq!(difference(&tiled, &whole), 0.0);
    let tiled = net.decode_tiled(&latents, &mut on_tile).unwrap();
    assert_eq!(difference(&tiled, &net.decode(&latents).unwrap()), 0.0);
    assert_eq!(reports, [(1, 1), (1, 1)]);
}

#[test]
fn a_tile_report_can_stop_the_work() {
    let (fixture, net) = open("vae/newer");
    let mut left = 2;
    let mut on_tile = |_, _| {
        left -= 1;
        if left == 0 { Err(Error::Interrupted) } else { Ok(()) }
    };
    let stopped = net.decode_tiled(fixture.input("large.latents"), &mut on_tile);
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert_eq!(left, 0);
}

/// Sides that the tiles divide badly: every rest at the edge, and tiles that are all overlap.
#[test]
fn any_size_goes_through_tiles() {
    let fixture = Fixture::open("vae/newer");
    for tile in [4, 8, 12, 20, 32, 44] {
        let config = VaeConfig { sample_size: tile, ..fixture.config() };
        let net = Vae::new(&config, fixture.var_builder()).unwrap();
        if tile < 8 {
            // One latent per tile cannot overlap.
            let error = net.decode_tiled(fixture.input("large.latents"), &mut |_, _| Ok(())).unwrap_err();
            assert!(error.to_string().contains("sample_size"), "{error}");
            continue;
        }
        for (height, width) in [(4, 60), (49, 50), (51, 36), (60, 5)] {
            let pixels = fixture.input("large.pixels").narrow(2, 0, height).unwrap().narrow(3, 0, width).unwrap();
            let posterior = net.encode_tiled(&pixels, &mut |_, _| Ok(())).unwrap();
            if tile % 16 == 0 {
                assert_eq!(posterior.mean.dims(), [1, 4, height / 4, width / 4], "{height} x {width}, tiles of {tile}");
            }
            let latents = Tensor::zeros((1, 4, height / 4, width / 4), DType::F32, &crate::device()).unwrap();
            let decoded = net.decode_tiled(&latents, &mut |_, _| Ok(())).unwrap();
            if tile % 16 == 0 {
                assert_eq!(
                    decoded.dims(),
                    [1, 3, height / 4 * 4, width / 4 * 4],
                    "{height} x {width}, tiles of {tile}"
                );
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (_, net) = open("vae/newer");
    let zeros = |shape: (usize, usize, usize, usize)| Tensor::zeros(shape, DType::F32, &crate::device()).unwrap();
    for shape in [(1, 4, 32, 32), (1, 3, 3, 32), (1, 3, 32, 3), (1, 3, 0, 0), (0, 3, 32, 32)] {
        let error = net.encode(&zeros(shape)).unwrap_err();
        assert!(matches!(error, Error::Usage { .. }), "{error}");
        net.encode_tiled(&zeros(shape), &mut |_, _| Ok(())).unwrap_err();
    }
    for shape in [(1, 3, 8, 8), (1, 4, 0, 8), (1, 4, 8, 0), (0, 4, 8, 8)] {
        let error = net.decode(&zeros(shape)).unwrap_err();
        assert!(matches!(error, Error::Usage { .. }), "{error}");
        net.decode_tiled(&zeros(shape), &mut |_, _| Ok(())).unwrap_err();
    }
    net.decode(&Tensor::zeros((4, 8, 8), DType::F32, &crate::device()).unwrap()).unwrap_err();
    let posterior = net.encode(&zeros((1, 3, 32, 32))).unwrap();
    posterior.sample(&zeros((1, 4, 4, 4))).unwrap_err();
}

#[test]
fn missing_and_misshapen_weights_are_named() {
    let fixture = Fixture::open("vae/newer");
    let device = crate::device();
    let load = |weights| Vae::new(&fixture.config(), VarBuilder::from_tensors(weights, DType::F32, &device));
    for key in [
        "encoder.down_blocks.1.downsamplers.0.conv.weight",
        "encoder.mid_block.attentions.0.to_q.weight",
        "decoder.up_blocks.2.resnets.0.conv_shortcut.bias",
        "quant_conv.weight",
    ] {
        let mut weights = fixture.weights();
        let weight = weights.remove(key).unwrap();
        let error = load(weights.clone()).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
        weights.insert(key.to_owned(), weight.flatten_all().unwrap().narrow(0, 0, 3).unwrap());
        let error = load(weights).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn absurd_configs_are_refused() {
    let fixture = Fixture::open("vae/newer");
    let huge = usize::MAX;
    for (key, value) in [
        ("norm_num_groups", serde_json::json!(0)),
        ("norm_num_groups", serde_json::json!(3)),
        ("block_out_channels", serde_json::json!([])),
        ("block_out_channels", serde_json::json!([8, 0, 24])),
        ("block_out_channels", serde_json::json!([8, huge, 24])),
        ("block_out_channels", serde_json::json!(vec![8; 100])),
        ("down_block_types", serde_json::json!([])),
        ("down_block_types", serde_json::json!(["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"])),
        ("up_block_types", serde_json::json!(["UpDecoderBlock2D"])),
        ("latent_channels", serde_json::json!(0)),
        ("latent_channels", serde_json::json!(huge)),
        ("layers_per_block", serde_json::json!(0)),
        ("layers_per_block", serde_json::json!(huge)),
        ("in_channels", serde_json::json!(0)),
        ("out_channels", serde_json::json!(huge)),
        ("sample_size", serde_json::json!(0)),
        ("sample_size", serde_json::json!(huge)),
        ("act_fn", serde_json::json!("gelu")),
    ] {
        let mut config: serde_json::Value = fixture.config();
        config[key] = value.clone();
        let config: VaeConfig = serde_json::from_value(config).unwrap();
        let error = Vae::new(&config, fixture.var_builder()).unwrap_err();
        assert!(matches!(error, Error::Usage { .. }), "{key} {value}: {error}");
        assert!(error.to_string().contains(key), "{key} {value}: {error}");
    }
}

#[test]
fn published_configs_are_read() {
    let sd15 = r#"{"_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D",
        "DownEncoderBlock2D", "DownEncoderBlock2D"], "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
        "norm_num_groups": 32, "out_channels": 3, "sample_size": 512, "up_block_types": ["UpDecoderBlock2D",
        "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
    let config: VaeConfig = serde_json::from_str(sd15).unwrap();
    assert_eq!((config.downscale(), config.scaling_factor, config.sample_size), (8, 0.18215, 512));
    assert!(config.use_quant_conv && config.use_post_quant_conv && config.mid_block_add_attention);
    let sized: VaeConfig = serde_json::from_str(r#"{"sample_size": [256, 512], "scaling_factor": 0.13025}"#).unwrap();
    assert_eq!((sized.sample_size, sized.scaling_factor, sized.downscale()), (256, 0.13025, 1));
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}
