//! Checkpoints in every form, sound and hostile. Fixtures: `tests/reference/checkpoints.py`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use impasto::weights::Checkpoint;
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
        for _ in 0..1500 {
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
