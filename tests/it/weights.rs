//! Checkpoints in every form, sound and hostile. Fixtures: `tests/reference/checkpoints.py`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use impasto::nets::clip::text::ClipText;
use impasto::nets::controlnet::ControlNet;
use impasto::nets::unet::Unet;
use impasto::nets::vae::Vae;
use impasto::weights::model::open_net;
use impasto::weights::{Checkpoint, Model, Part, TokenizerSource};
use serde_json::Value;

use crate::fixture;

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(fixture("checkpoints").join(name)).unwrap()
}

fn values() -> Value {
    let text = std::fs::read_to_string(fixture("checkpoints/values.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn expect(checkpoint: &Checkpoint, name: &str, key: &str, expected: &Value) {
    let numbers = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let tensor = checkpoint.tensor(name, DType::F32, &Device::Cpu).unwrap();
    let shape: Vec<f64> = tensor.dims().iter().map(|&d| d as f64).collect();
    assert_eq!(shape, numbers(&expected["shapes"][key]), "{name}");
    assert_eq!(checkpoint.shape(name).unwrap(), tensor.dims());
    assert_eq!(flat(&tensor), numbers(&expected["values"][key]), "{name}");
}

#[test]
fn every_form_and_type_gives_the_same_numbers() {
    let expected = values();
    for file in
        ["f32.safetensors", "f16.safetensors", "bf16.safetensors", "f32.bin", "f16.bin", "bf16.bin", "legacy.ckpt"]
    {
        let checkpoint = checkpoint(file);
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["ids", "net.conv.weight", "net.weight"], "{file}");
        for name in ["ids", "net.conv.weight", "net.weight"] {
            expect(&checkpoint, name, name, &expected);
            for dtype in [DType::F16, DType::BF16, DType::F64] {
                let tensor = checkpoint.tensor(name, dtype, &Device::Cpu).unwrap();
                assert_eq!(tensor.dtype(), dtype);
                let narrow = flat(&tensor);
                assert_eq!(narrow, flat(&checkpoint.tensor(name, DType::F32, &Device::Cpu).unwrap()), "{file} {name}");
            }
        }
        assert_eq!(checkpoint.dtype("ids"), Some(DType::I64));
        assert_eq!(
            checkpoint.tensor("ids", DType::I64, &Device::Cpu).unwrap().to_vec2::<i64>().unwrap(),
            [[0, 1, 2, 3, 4]]
        );
    }
}

#[test]
fn strides_offsets_and_wrappers_of_pickles_are_honoured() {
    let expected = values();
    let checkpoint = checkpoint("views.ckpt");
    let names =
        ["channels_last", "column", "double", "empty", "expanded", "parameter", "scalar", "slice", "transposed"];
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), names);
    for name in names {
        expect(&checkpoint, name, &format!("views.{name}"), &expected);
    }
}

#[test]
fn nested_dictionaries_are_flattened_with_dots() {
    let checkpoint = checkpoint("nested.bin");
    let names: Vec<_> = checkpoint.names().collect();
    assert_eq!(names, ["image_proj.norm.weight", "image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"]);
    let projection = checkpoint.subset("image_proj.");
    assert_eq!(projection.names().collect::<Vec<_>>(), ["norm.weight", "proj.weight"]);
    assert_eq!(projection.shape("proj.weight"), Some(&[4, 6][..]));
}

#[test]
fn a_pickled_object_is_refused_with_the_way_out() {
    let error = Checkpoint::open(fixture("checkpoints/module.pt")).unwrap_err();
    assert!(error.to_string().contains("Python object"), "{error}");
    assert!(error.hint().unwrap().contains("save_file"));
}

#[test]
fn builder_errors_name_file_tensor_and_shapes() {
    let vb = checkpoint("f16.safetensors").var_builder(DType::F32, &Device::Cpu);
    assert!(vb.pp("net").get((4, 6), "weight").is_ok());
    let error = vb.pp("net").get((6, 4), "weight").unwrap_err().to_string();
    for part in ["f16.safetensors", "`net.weight`", "[4, 6]", "[6, 4]"] {
        assert!(error.contains(part), "{error}");
    }
    let error = vb.pp("net").get(4, "wieght").unwrap_err().to_string();
    for part in ["f16.safetensors", "`net.wieght`", "nearest is `net.weight`"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn renaming_reports_collisions() {
    let checkpoint = checkpoint("f32.safetensors");
    let renamed = checkpoint.rename(|name| name.strip_prefix("net.").map(str::to_owned)).unwrap();
    assert_eq!(renamed.names().collect::<Vec<_>>(), ["conv.weight", "weight"]);
    assert!(checkpoint.rename(|_| Some("same".to_owned())).is_err());
}

/// Opens bytes as a file; reading every tensor must not panic either.
fn attempt(folder: &Path, bytes: &[u8]) -> impasto::Result<Checkpoint> {
    let path = folder.join("hostile.bin");
    // Overwriting in place makes some file systems wait for the disk.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(&path)?;
    for name in checkpoint.names().map(str::to_owned).collect::<Vec<_>>() {
        let size: usize = checkpoint.shape(&name).unwrap().iter().product();
        if size < 1 << 24 {
            let _ = checkpoint.tensor(&name, DType::F32, &Device::Cpu);
        }
    }
    Ok(checkpoint)
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn hostile_safetensors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let one = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    assert!(attempt(folder.path(), &safetensors(&format!("{{{one}}}"), 8)).is_ok());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "0 bytes"),
        ("seven bytes", vec![1; 7], "too few"),
        ("zeros", vec![0; 64], "unreadable"),
        ("huge header", u64::MAX.to_le_bytes().repeat(2), "announces"),
        ("header past the end", [1000u64.to_le_bytes().as_slice(), b"{}"].concat(), "announces"),
        ("data cut short", safetensors(&format!("{{{one}}}"), 7), "ends at byte 8"),
        ("data too long", safetensors(&format!("{{{one}}}"), 9), "after the last"),
        ("name twice", safetensors(&format!("{{{one},{one}}}"), 8), "twice"),
        (
            "overlap",
            safetensors(&format!("{{{one},{}}}", one.replace("\"a\"", "\"b\"").replace("[0,8]", "[4,12]")), 12),
            "expected to start at 8",
        ),
        ("gap", safetensors(&format!("{{{}}}", one.replace("[0,8]", "[4,12]")), 12), "expected to start at 0"),
        ("backwards", safetensors(&format!("{{{}}}", one.replace("[0,8]", "[8,0]")), 8), "expected to start"),
        ("wrong size", safetensors(&format!("{{{}}}", one.replace("[2]", "[3]")), 8), "does not fit"),
        (
            "overflow",
            safetensors(&format!("{{{}}}", one.replace("[2]", "[4294967296,4294967296,4]")), 8),
            "does not fit",
        ),
        ("past u64", safetensors(&format!("{{{}}}", one.replace("[2]", "[99999999999999999999]")), 8), "unreadable"),
        ("NaN length", safetensors(&format!("{{{}}}", one.replace("[2]", "[NaN]")), 8), "unreadable"),
        ("negative", safetensors(&format!("{{{}}}", one.replace("[2]", "[-2]")), 8), "unreadable"),
        (
            "rank",
            safetensors(&format!("{{{}}}", one.replace("[2]", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]")), 8),
            "does not fit",
        ),
        ("type", safetensors(&format!("{{{}}}", one.replace("F32", "Q4")), 8), "unknown type Q4"),
        ("not an object", safetensors("[1,2]", 0), "unreadable"),
        ("deep", safetensors(&"[".repeat(100_000), 0), "unreadable"),
        ("a page", b"<!DOCTYPE html><html></html>".to_vec(), "web page"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "Git LFS"),
    ];
    for (what, bytes, reason) in cases {
        let error = attempt(folder.path(), &bytes).expect_err(what).to_string();
        assert!(error.contains("hostile.bin") && error.contains(reason), "{what}: {error}");
    }
    assert!(Checkpoint::open(folder.path()).unwrap_err().to_string().contains("folder"));
    assert!(Checkpoint::open(folder.path().join("none")).is_err());
}

#[test]
fn damaged_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["f16.safetensors", "f32.bin", "views.ckpt", "legacy.ckpt", "nested.bin", "module.pt"] {
        let sound = std::fs::read(fixture("checkpoints").join(file)).unwrap();
        for cut in (0..sound.len()).step_by(sound.len() / 40 + 1) {
            assert!(attempt(folder.path(), &sound[..cut]).is_err(), "{file} cut at {cut}");
        }
        // A small generator instead of a crate: the same damage every time.
        let mut state = 1u64;
        for _ in 0..600 {
            let mut bytes = sound.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 17) as u8;
            }
            let _ = attempt(folder.path(), &bytes);
        }
    }
}

fn shards(folder: &Path, map: &str) -> PathBuf {
    let path = folder.join("model.safetensors.index.json");
    std::fs::write(&path, format!(r#"{{"metadata":{{}},"weight_map":{{{map}}}}}"#)).unwrap();
    path
}

#[test]
fn shards_are_joined_and_must_lie_beside_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| std::fs::copy(fixture("checkpoints").join(from), folder.path().join(to)).unwrap();
    copy("f32.safetensors", "model-1.safetensors");
    copy("f16.safetensors", "model-2.safetensors");
    let index = shards(folder.path(), r#""net.weight":"model-1.safetensors","net.conv.weight":"model-2.safetensors""#);
    let joined = Checkpoint::open(&index).unwrap();
    assert_eq!(joined.dtype("net.weight"), Some(DType::F32));
    assert_eq!(joined.dtype("net.conv.weight"), Some(DType::F16));
    expect(&joined, "net.weight", "net.weight", &values());
    expect(&joined, "net.conv.weight", "net.conv.weight", &values());
    assert_eq!(Checkpoint::open_net(folder.path(), &["other", "model"]).unwrap().len(), 2);

    for (map, reason) in [
        (r#""a":"../model-1.safetensors""#, "not a file beside it"),
        (r#""a":"/etc/passwd""#, "not a file beside it"),
        (r#""a":"..\\x""#, "not a file beside it"),
        (r#""a":"..""#, "not a file beside it"),
        (r#""a":"""#, "not a file beside it"),
        (r#""a":"model-3.safetensors""#, "missing"),
        (r#""a":"model-1.safetensors""#, "but it is not"),
        ("", "names no tensors"),
    ] {
        let error = Checkpoint::open(shards(folder.path(), map)).unwrap_err().to_string();
        assert!(error.contains(reason), "{map}: {error}");
    }
}

#[test]
fn a_net_folder_prefers_safetensors_and_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let error = Checkpoint::open_net(folder.path(), &["diffusion_pytorch_model"]).unwrap_err().to_string();
    assert!(error.contains("diffusion_pytorch_model.safetensors"), "{error}");
    std::fs::copy(fixture("checkpoints/f32.bin"), folder.path().join("pytorch_model.bin")).unwrap();
    let stems = ["model", "pytorch_model"];
    assert!(Checkpoint::open_net(folder.path(), &stems).unwrap().path().ends_with("pytorch_model.bin"));
    std::fs::copy(fixture("checkpoints/f16.safetensors"), folder.path().join("model.fp16.safetensors")).unwrap();
    assert!(Checkpoint::open_net(folder.path(), &stems).unwrap().path().ends_with("model.fp16.safetensors"));
    assert!(Checkpoint::open_net(folder.path().join("none"), &stems).is_err());
}

/// A tensor of an original checkpoint and what diffusers makes of its rows.
struct Named {
    name: String,
    shape: Vec<usize>,
    parts: Vec<String>,
}

/// The names of one family; the format is told in `tests/reference/checkpoints.py`.
fn names(family: &str) -> Vec<Named> {
    let text = std::fs::read_to_string(fixture("checkpoints/names.txt")).unwrap();
    let (mut found, mut prefix, mut inside) = (Vec::new(), "", false);
    for line in text.lines() {
        if let Some(section) = line.strip_prefix('[') {
            let (of, rest) = section.split_once("] ").unwrap();
            (inside, prefix) = (of == family, rest);
            continue;
        }
        if !inside {
            continue;
        }
        let fields: Vec<&str> = line.split(' ').collect();
        let shape: Vec<usize> = fields[1].split(',').filter_map(|d| d.parse().ok()).collect();
        let kinds = if fields[0].ends_with('+') { vec!["weight", "bias"] } else { vec!["+"] };
        for kind in kinds {
            found.push(Named {
                name: format!("{prefix}{}", fields[0].replace('+', kind)),
                shape: if kind == "bias" { shape[..1].to_vec() } else { shape.clone() },
                parts: fields[2..].iter().map(|part| part.replace('+', kind)).collect(),
            });
        }
    }
    assert!(found.len() > 300);
    found
}

/// A file of these tensors. Every part of every tensor is filled with a number of its own, which is returned by name.
fn write_named(path: &Path, names: &[Named], prefix: &str) -> std::collections::BTreeMap<String, (f32, Vec<usize>)> {
    let (mut header, mut data, mut expected) = (serde_json::Map::new(), Vec::<u8>::new(), Default::default());
    let numbers: &mut std::collections::BTreeMap<_, _> = &mut expected;
    for (index, tensor) in names.iter().enumerate() {
        let start = data.len();
        let pieces = tensor.parts.len().max(1);
        let size: usize = tensor.shape.iter().product::<usize>() / pieces;
        for piece in 0..pieces {
            let value = index as f32 + piece as f32 / 4.0;
            data.extend(value.to_le_bytes().repeat(size));
            if let Some(part) = tensor.parts.get(piece) {
                let mut shape = tensor.shape.clone();
                shape[0] /= pieces;
                numbers.insert(part.clone(), (value, shape));
            }
        }
        let entry = serde_json::json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.strip_prefix(prefix).unwrap().to_owned(), entry);
    }
    let header = serde_json::to_string(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    std::fs::write(path, bytes).unwrap();
    expected
}

fn agree(config: &Value, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&config[key], value, "{key}");
    }
}

#[test]
fn single_files_convert_as_in_diffusers() {
    let configs: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("checkpoints/configs.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (family, tokenizer) in [("sd15", TokenizerSource::Clip), ("sd21", TokenizerSource::OpenClip)] {
        let path = folder.path().join(format!("{family}.safetensors"));
        let expected = write_named(&path, &names(family), "");
        let mut model = Model::open(&path).unwrap();
        assert_eq!(model.tokenizer().unwrap(), tokenizer);
        let mut found = 0;
        for (part, key) in [(Part::Unet, "unet"), (Part::Vae, "vae"), (Part::TextEncoder, "text_encoder")] {
            let (config, checkpoint) = model.part(part).unwrap();
            let mut wanted = configs[family][key].clone();
            if key == "text_encoder" {
                // Not in the shapes: 64 per head, as in every published model.
                wanted["num_attention_heads"] = config["num_attention_heads"].clone();
            }
            agree(&config, &wanted);
            for name in checkpoint.names().filter(|name| !name.ends_with("position_ids")) {
                let (value, shape) = expected.get(name).unwrap_or_else(|| panic!("{family} {name}"));
                let tensor = checkpoint.tensor(name, DType::F32, &Device::Cpu).unwrap();
                assert!(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|x| x == value), "{name}");
                let shape: Vec<usize> = if name.contains("mid_block.attentions") && key == "vae" {
                    shape[..shape.len().min(2)].to_vec()
                } else {
                    shape.clone()
                };
                assert_eq!(tensor.dims(), shape, "{name}");
                found += 1;
            }
        }
        assert_eq!(found, expected.len(), "{family}: some tensors were not found");
        // The nets take what was told from the shapes.
        let net = |part| {
            let (config, checkpoint) = model.part(part).unwrap();
            (config, checkpoint.var_builder(DType::F32, &Device::Cpu))
        };
        let (config, vb) = net(Part::Unet);
        Unet::new(&serde_json::from_value(config).unwrap(), vb).unwrap();
        let (config, vb) = net(Part::Vae);
        Vae::new(&serde_json::from_value(config).unwrap(), vb).unwrap();
        let (config, vb) = net(Part::TextEncoder);
        ClipText::new(&serde_json::from_value(config).unwrap(), vb).unwrap();
        let prediction = |model: &Model| model.scheduler().unwrap()["prediction_type"].clone();
        assert_eq!(prediction(&model), if family == "sd21" { "v_prediction" } else { "epsilon" });
        std::fs::write(path.with_extension("yaml"), "model:\n  params:\n    parameterization: \"v\"\n").unwrap();
        assert_eq!(prediction(&Model::open(&path).unwrap()), "v_prediction");
        model.set_prediction_type("epsilon").unwrap();
        assert_eq!(prediction(&model), "epsilon");
        assert!(model.set_prediction_type("noise").is_err());
    }
}

#[test]
fn controlnets_convert_as_in_diffusers() {
    let configs: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("checkpoints/configs.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.safetensors");
    let names = names("controlnet");
    // With the prefix of a training checkpoint, without it, and under diffusers' names without a configuration.
    let diffusers: Vec<Named> = names
        .iter()
        .map(|n| Named { name: n.parts[0].clone(), shape: n.shape.clone(), parts: n.parts.clone() })
        .collect();
    for (list, prefix) in [(&names, ""), (&names, "control_model."), (&diffusers, "")] {
        let expected = write_named(&path, list, prefix);
        let (config, checkpoint) = open_net(&path, Part::ControlNet).unwrap();
        agree(&config, &configs["controlnet"]);
        let vb = checkpoint.clone().var_builder(DType::F32, &Device::Cpu);
        ControlNet::new(&serde_json::from_value(config).unwrap(), vb).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, (value, shape)) in &expected {
            let tensor = checkpoint.tensor(name, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(tensor.dims(), shape, "{name}");
            assert!(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|x| x == value), "{name}");
        }
    }
    let error = Model::open(&path).unwrap_err();
    assert!(error.to_string().contains("ControlNet, not a model") && error.hint().unwrap().contains("--controlnet"));
}

#[test]
fn strangers_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let file = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        std::fs::write(&path, safetensors(&header, 4)).unwrap();
        Model::open(&path).unwrap_err().to_string()
    };
    for (name, what) in [
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.weight", "Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.proj.weight", "FLUX"),
        ("lora_unet_down_blocks_0.lora_down.weight", "LoRA"),
        ("image_proj.proj.weight", "IP-Adapter"),
        ("decoder.conv_in.weight", "VAE alone"),
        ("vision_model.post_layernorm.weight", "image encoder"),
        ("something.else", "`something.else`"),
    ] {
        assert!(file(name).contains(what), "{name}: {}", file(name));
    }
    // A UNet alone under a model's name: every part says what is missing.
    assert!(!file("x").is_empty());
    let header =
        r#"{"model.diffusion_model.input_blocks.0.0.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    std::fs::write(&path, safetensors(header, 4)).unwrap();
    let model = Model::open(&path).unwrap();
    for (part, what) in
        [(Part::Unet, "without attention"), (Part::Vae, "no VAE"), (Part::TextEncoder, "no text encoder")]
    {
        let error = model.part(part).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn folders_are_checked_before_they_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let error = Model::open(root).unwrap_err();
    assert!(error.to_string().contains("no unet") && error.hint().unwrap().contains("text_encoder/"));
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        std::fs::create_dir(root.join(part)).unwrap();
    }
    let model = Model::open(root).unwrap();
    assert!(model.tokenizer().unwrap_err().to_string().contains("merges.txt"));
    assert!(model.scheduler().is_err() && model.part(Part::Unet).is_err());
    std::fs::write(root.join("unet/config.json"), r#"{"in_channels": 4}"#).unwrap();
    assert!(model.part(Part::Unet).unwrap_err().to_string().contains("diffusion_pytorch_model.safetensors"));
    let copy = |to: &str| std::fs::copy(fixture("checkpoints/f16.safetensors"), root.join(to)).unwrap();
    copy("unet/diffusion_pytorch_model.fp16.safetensors");
    let (config, checkpoint) = model.part(Part::Unet).unwrap();
    assert_eq!((config["in_channels"].as_u64(), checkpoint.len()), (Some(4), 3));
    std::fs::write(root.join("tokenizer/tokenizer.json"), "{}").unwrap();
    assert_eq!(model.tokenizer().unwrap(), TokenizerSource::Folder(root.join("tokenizer")));
    std::fs::write(root.join("scheduler/scheduler_config.json"), "{").unwrap();
    assert!(model.scheduler().unwrap_err().to_string().contains("not valid JSON"));
    std::fs::write(root.join("model_index.json"), r#"{"_class_name": "StableDiffusionXLPipeline"}"#).unwrap();
    assert!(Model::open(root).unwrap_err().to_string().contains("Stable Diffusion XL"));
    std::fs::remove_file(root.join("model_index.json")).unwrap();
    std::fs::create_dir(root.join("text_encoder_2")).unwrap();
    assert!(Model::open(root).unwrap_err().to_string().contains("second text encoder"));
    assert!(Model::open(root.join("none")).is_err());
}

/// A PyTorch file with this pickle and one storage of 64 bytes named 0.
fn torch_file(pickle: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", &[0u8; 64][..])] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Pickles `{"t": tensor}` with everything in the hands of the test; numbers are written as text, which has no limit.
fn tensor_pickle(storage: &str, kind: &str, offset: &str, shape: &[&str], strides: &[&str]) -> Vec<u8> {
    let numbers = |list: &[&str]| format!("({}t", list.iter().map(|n| format!("I{n}\n")).collect::<String>());
    let persistent = format!("(Vstorage\nctorch\n{kind}\nV{storage}\nVcpu\nI16\ntQ");
    let arguments = format!("({persistent}I{offset}\n{}{}I00\nNt", numbers(shape), numbers(strides));
    format!("(dVt\nctorch._utils\n_rebuild_tensor_v2\n{arguments}Rs.").into_bytes()
}

#[test]
fn lying_tensors_in_pickles_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |pickle: &[u8]| attempt(folder.path(), &torch_file(pickle));
    let sound = open(&tensor_pickle("0", "FloatStorage", "0", &["4", "4"], &["4", "1"])).unwrap();
    assert_eq!(sound.shape("t"), Some(&[4, 4][..]));
    // An axis of one entry may have any stride.
    let any =
        open(&tensor_pickle("0", "FloatStorage", "0", &["1", "4", "2"], &["9223372036854775807", "1", "4"])).unwrap();
    assert_eq!(any.tensor("t", DType::F32, &Device::Cpu).unwrap().dims(), [1, 4, 2]);

    let huge = "4611686018427387904";
    for (what, pickle, reason) in [
        ("no storage", tensor_pickle("1", "FloatStorage", "0", &["4"], &["1"]), "not there"),
        ("outside", tensor_pickle("../data.pkl", "FloatStorage", "0", &["4"], &["1"]), "not there"),
        ("too long", tensor_pickle("0", "FloatStorage", "0", &["17"], &["1"]), "does not fit"),
        ("offset", tensor_pickle("0", "FloatStorage", "13", &["4"], &["1"]), "does not fit"),
        ("offset overflow", tensor_pickle("0", "FloatStorage", huge, &["4"], &["1"]), "does not fit"),
        ("negative offset", tensor_pickle("0", "FloatStorage", "-1", &["4"], &["1"]), "negative"),
        ("negative shape", tensor_pickle("0", "FloatStorage", "0", &["-4"], &["1"]), "shape"),
        ("negative stride", tensor_pickle("0", "FloatStorage", "3", &["4"], &["-1"]), "strides"),
        ("stride outside", tensor_pickle("0", "FloatStorage", "0", &["4"], &["6"]), "does not fit"),
        ("stride overflow", tensor_pickle("0", "FloatStorage", "0", &["4"], &[huge]), "does not fit"),
        ("shape overflow", tensor_pickle("0", "FloatStorage", "0", &[huge, huge], &["1", "1"]), "does not fit"),
        ("repeats without end", tensor_pickle("0", "FloatStorage", "0", &["1000000000"], &["0"]), "does not fit"),
        ("strides missing", tensor_pickle("0", "FloatStorage", "0", &["4", "4"], &["1"]), "does not fit"),
        ("type", tensor_pickle("0", "ComplexStorage", "0", &["4"], &["1"]), "ComplexStorage"),
    ] {
        let error = open(&pickle).expect_err(what).to_string();
        assert!(error.contains(reason) && error.contains("hostile.bin"), "{what}: {error}");
    }
}

#[test]
fn hostile_pickles_do_nothing_and_end_soon() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let started = std::time::Instant::now();
    let system = format!("cos\nsystem\n(Vtouch {}\ntR.", witness.display());
    // A list in itself; a dictionary that holds two of the next, forty deep; nesting without end; text repeated as a
    // class name; entries copied over and over.
    let itself = "(lp0\ng0\na(dVx\ng0\ns.".to_owned();
    let doubling =
        (0..40).fold("(dp0\n".to_owned(), |text, i| format!("{text}(dp{}\nVa\ng{i}\nsVb\ng{i}\ns", i + 1)) + ".";
    let mut nested = vec![b')'];
    nested.extend(std::iter::repeat_n(0x85, 2_000_000));
    nested.push(b'.');
    let mut names = format!("V{}\np0\n", "x".repeat(1 << 20)).into_bytes();
    names.extend(std::iter::repeat_n(b"g0\ng0\n\x93".as_slice(), 100_000).flatten());
    names.push(b'.');
    let mut copies = b"(l".to_vec();
    copies.extend(std::iter::repeat_n(b"(NNta".as_slice(), 50_000).flatten());
    copies.extend(b"p0\n0");
    copies.extend(std::iter::repeat_n(b"ccollections\nOrderedDict\n(g0\ntR".as_slice(), 50_000).flatten());
    copies.push(b'.');
    for (what, pickle) in [
        ("a command", system.into_bytes()),
        ("a list in itself", itself.into_bytes()),
        ("doubling", doubling.into_bytes()),
        ("nothing", b").".to_vec()),
        ("nesting", nested),
        ("names", names),
        ("copies", copies),
        ("no end", b"(d".to_vec()),
        ("empty stack", b"0.".to_vec()),
        ("no mark", b"t.".to_vec()),
        ("unknown value", b"g7\n.".to_vec()),
        ("unknown instruction", b"\xff.".to_vec()),
        ("a text beyond the end", b"X\xff\xff\xff\xff.".to_vec()),
        ("a text beyond memory", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec()),
        ("a number beyond memory", b"\x8b\xff\xff\xff\x7f.".to_vec()),
    ] {
        assert!(attempt(folder.path(), &torch_file(&pickle)).is_err(), "{what}");
    }
    assert!(!witness.exists());
    assert!(started.elapsed().as_secs() < 60);
}

/// Weights that stay in half precision in memory paint what widened ones do.
#[test]
fn half_precision_in_memory_changes_nothing() {
    let model = Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/mini")).unwrap();
    let evaluate = |lean: bool| {
        let (json, checkpoint) = model.part(Part::Unet).unwrap();
        assert_eq!(checkpoint.dtype("conv_in.weight"), Some(DType::F16));
        let vb = if lean {
            checkpoint.lean_var_builder(DType::F32, &Device::Cpu)
        } else {
            checkpoint.var_builder(DType::F32, &Device::Cpu)
        };
        let net = Unet::new(&impasto::nets::unet::UnetConfig::from_json(&json).unwrap(), vb).unwrap();
        let mut rng = impasto::rng::TorchRng::new(1);
        let text = rng.normal(&[2, 77, 256]).unwrap();
        let context = net.context(&text, &[]).unwrap();
        let out = net.forward(&rng.normal(&[2, 4, 16, 16]).unwrap(), 300.0, &context, None).unwrap();
        out.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(evaluate(true), evaluate(false));
}
