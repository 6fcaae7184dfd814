//! Reading, resizing and writing pictures against Pillow, transformers and diffusers, and against bad files.

use std::collections::HashMap;
use std::path::Path;

use ::image::{GrayImage, RgbImage};
use candle_core::{DType, Device, Tensor};
use impasto::image::{clip, read, resize, tensor, write};
use sha2::{Digest, Sha256};

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(crate::fixture(name), &Device::Cpu).unwrap()
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(crate::fixture(name)).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn crop(name: &str) -> RgbImage {
    read::open(crate::fixture(&format!("image/{name}.png"))).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The bits, so that a value one step away counts.
fn assert_same_bits(got: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (floats(got), floats(expected));
    let different = got.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(different, 0, "{what}: of {} values", got.len());
}

/// The largest difference of any channel, and how many channels differ.
fn difference(got: &[u8], expected: &Tensor) -> (u8, usize) {
    let expected = expected.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    assert_eq!(got.len(), expected.len());
    let differences = got.iter().zip(expected).map(|(&a, b)| a.abs_diff(b)).filter(|&d| d > 0);
    differences.fold((0, 0), |(worst, count), d| (worst.max(d), count + 1))
}

#[test]
fn every_format_reads_as_pillow_reads_it() {
    let expected = tensors("image/formats.safetensors");
    let files: Vec<_> =
        std::fs::read_dir(crate::fixture("image/formats")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(2 * files.len(), expected.len());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let rgb = read::open(&file).unwrap();
        let grey = read::open_grey(&file).unwrap();
        let want_rgb = &expected[&format!("{name}/rgb")];
        let want_grey = &expected[&format!("{name}/grey")];
        assert_eq!(want_rgb.dims(), [rgb.height() as usize, rgb.width() as usize, 3], "{name}");
        assert_eq!(want_grey.dims(), [grey.height() as usize, grey.width() as usize], "{name}");
        // Four-channel JPEG is left to a decoder that rounds elsewhere; all else is exact.
        let most = u8::from(name == "cmyk.jpg");
        for (kind, (worst, count)) in [("rgb", difference(&rgb, want_rgb)), ("grey", difference(&grey, want_grey))] {
            assert!(worst <= most, "{name} {kind}: {count} channels differ, at most by {worst}");
        }
    }
}

#[test]
fn every_kind_of_jpeg_reads_as_pillow_reads_it() {
    let expected = json("image/jpeg.json");
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 5 * 5 * 2 + 3);
    let mut wrong = Vec::new();
    for (name, hash) in expected {
        let picture = read::open(crate::fixture(&format!("image/jpeg/{name}"))).unwrap();
        if sha256(picture.as_raw()) != hash.as_str().unwrap() {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn resizing_equals_pillow() {
    let noise = crop("noise");
    let mut pictures: HashMap<&str, RgbImage> =
        ["astronaut", "chelsea", "coffee", "rocket"].into_iter().map(|name| (name, crop(name))).collect();
    let part = |x, y, width, height| ::image::imageops::crop_imm(&noise, x, y, width, height).to_image();
    pictures.insert("pixel", part(5, 7, 1, 1));
    pictures.insert("row", part(0, 9, 37, 1));
    pictures.insert("column", part(8, 0, 1, 53));
    pictures.insert("noise", noise);
    let cases = json("image/resize.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 8 * 12 * 4);
    let mut wrong = Vec::new();
    for case in cases {
        let picture = &pictures[case["picture"].as_str().unwrap()];
        let size = |side: &str| u32::try_from(case[side].as_u64().unwrap()).unwrap();
        let (width, height) = (size("width"), size("height"));
        let grey = GrayImage::from_fn(picture.width(), picture.height(), |x, y| {
            let [r, g, b] = picture.get_pixel(x, y).0.map(u32::from);
            ::image::Luma([((19595 * r + 38470 * g + 7471 * b + 32768) >> 16) as u8])
        });
        let got = match (case["mode"].as_str().unwrap(), case["filter"].as_str().unwrap()) {
            ("RGB", "lanczos") => resize::lanczos(picture, width, height).unwrap().into_raw(),
            ("RGB", "bicubic") => resize::bicubic(picture, width, height).unwrap().into_raw(),
            ("L", "lanczos") => resize::lanczos_grey(&grey, width, height).unwrap().into_raw(),
            ("L", "bicubic") => resize::bicubic_grey(&grey, width, height).unwrap().into_raw(),
            other => panic!("{other:?}"),
        };
        if sha256(&got) != case["sha256"].as_str().unwrap() {
            wrong.push(case.to_string());
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn resizing_to_nothing_or_too_much_is_refused() {
    let picture = crop("noise");
    for (width, height) in [(0, 5), (5, 0), (30_000, 1), (20_000, 20_001)] {
        let error = resize::lanczos(&picture, width, height).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
    assert!(resize::bicubic(&RgbImage::new(0, 3), 4, 4).is_err());
}

#[test]
fn clip_pixels_equal_transformers() {
    let upscaled = ::image::imageops::crop_imm(&crop("noise"), 3, 4, 17, 8).to_image();
    let picture = |name: &str| if name == "upscaled" { upscaled.clone() } else { crop(name) };
    let expected = tensors("image/clip.safetensors");
    assert_eq!(expected.len(), 12);
    for (key, expected) in expected {
        let (name, size) = key.split_once('/').unwrap();
        let got = clip::preprocess(&picture(name), size.parse().unwrap()).unwrap();
        assert_same_bits(&got, &expected, &key);
    }
    let hashes = json("image/clip.json");
    assert_eq!(hashes.as_object().unwrap().len(), 6);
    for (name, hash) in hashes.as_object().unwrap() {
        let got = clip::preprocess(&picture(name), 224).unwrap();
        assert_eq!(got.dims(), [1, 3, 224, 224]);
        let bytes: Vec<u8> = floats(&got).into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(sha256(&bytes), hash.as_str().unwrap(), "{name}");
    }
}

#[test]
fn tensors_equal_the_vae_image_processor() {
    let expected = tensors("image/tensor.safetensors");
    let ramp = RgbImage::from_fn(32, 8, |x, y| ::image::Rgb([(32 * y + x) as u8; 3]));
    let grey = GrayImage::from_fn(32, 8, |x, y| ::image::Luma([(32 * y + x) as u8]));
    assert_same_bits(&tensor::to_signed(&ramp).unwrap(), &expected["signed"], "signed");
    assert_same_bits(&tensor::to_unit(&ramp).unwrap(), &expected["unit"], "unit");
    assert_same_bits(&tensor::mask(&grey).unwrap(), &expected["mask"], "mask");

    let pictures = tensor::to_pictures(&expected["values"]).unwrap();
    assert_eq!(pictures.len(), 2);
    let bytes: Vec<u8> = pictures.into_iter().flat_map(RgbImage::into_raw).collect();
    assert_eq!(difference(&bytes, &expected["pictures"]), (0, 0));
}

#[test]
fn a_picture_survives_the_way_to_a_tensor_and_back() {
    let picture = crop("coffee");
    let signed = tensor::to_signed(&picture).unwrap();
    assert_eq!(tensor::to_pictures(&signed).unwrap(), [picture]);
    let [r, g, b] = crop("coffee").get_pixel(3, 2).0;
    let at = |channel| {
        let row = signed.get(0).unwrap().get(channel).unwrap().get(2).unwrap();
        row.to_vec1::<f32>().unwrap()[3]
    };
    assert_eq!([at(0), at(1), at(2)].map(|v| (v * 127.5 + 127.5).round() as u8), [r, g, b]);
}

#[test]
fn tensors_that_are_no_pictures_are_refused() {
    let bad = Tensor::full(f32::NAN, (1, 3, 2, 2), &Device::Cpu).unwrap();
    assert_eq!(tensor::to_pictures(&bad).unwrap()[0].as_raw(), &[0; 12]);
    assert!(tensor::to_pictures(&Tensor::zeros((1, 4, 2, 2), DType::F32, &Device::Cpu).unwrap()).is_err());
    assert!(tensor::to_pictures(&Tensor::zeros((3, 2, 2), DType::F32, &Device::Cpu).unwrap()).is_err());
    assert_eq!(tensor::to_pictures(&Tensor::zeros((0, 3, 2, 2), DType::F32, &Device::Cpu).unwrap()).unwrap().len(), 0);
    let half = Tensor::full(half::bf16::from_f32(1.0), (1, 3, 2, 2), &Device::Cpu).unwrap();
    assert_eq!(tensor::to_pictures(&half).unwrap()[0].as_raw(), &[255; 12]);
}

/// `bytes` in a file of that name, and what reading it says.
fn refusal(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    let rgb = read::open(&path).unwrap_err().to_string();
    let grey = read::open_grey(&path).unwrap_err().to_string();
    assert_eq!(rgb, grey);
    assert!(rgb.contains(name), "{rgb}");
    rgb
}

#[test]
fn bad_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    assert!(refusal(dir, "empty.png", b"").contains("is empty"));
    assert!(refusal(dir, "text.png", b"this is no picture at all").contains("is not a picture"));
    assert!(refusal(dir, "one.jpg", b"\xff").contains("is not a picture"));
    assert!(refusal(dir, "movie.png", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").contains("GIF"));
    assert!(read::open(dir).unwrap_err().to_string().contains("folder"));
    assert!(read::open(dir.join("absent.png")).unwrap_err().to_string().contains("absent.png"));

    let formats = crate::fixture("image/formats");
    for name in ["rgb.png", "444.jpg", "progressive.jpg", "upright-6.jpg", "lossless.webp", "lossy.webp"] {
        let bytes = std::fs::read(formats.join(name)).unwrap();
        // Heads shorter than the file, down to one byte. (A PNG is whole before its empty end chunk, 12 bytes.)
        for length in (1..80).chain((80..bytes.len() - 13).step_by(31)).chain([bytes.len() - 13]) {
            refusal(dir, name, &bytes[..length]);
        }
        let reason = refusal(dir, name, &bytes[..bytes.len() / 2]);
        assert!(reason.contains("cut short"), "{reason}");
    }
}

/// A PNG of one byte of pixels that says it is `width` x `height`.
fn png_claiming(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 1, 1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&[1, 2, 3]).unwrap();
    file[16..20].copy_from_slice(&width.to_be_bytes());
    file[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&file[12..29]);
    file[29..33].copy_from_slice(&crc.to_be_bytes());
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn sizes_are_checked_before_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    let reason = refusal(folder.path(), "bomb.png", &png_claiming(u32::MAX >> 1, u32::MAX >> 1));
    assert!(reason.contains("too much memory"), "{reason}");
    for (width, height) in [(20_001, 1), (1, 20_001), (1_000_000, 1_000), (20_000, 20_001)] {
        let reason = refusal(folder.path(), "bomb.png", &png_claiming(width, height));
        assert!(reason.contains("limits are 20000") && reason.contains(&width.to_string()), "{reason}");
    }
    assert!(refusal(folder.path(), "none.png", &png_claiming(0, 4)).contains("none.png"));
    // Within the limits, but nothing is there: the claim alone must cost no time.
    refusal(folder.path(), "hollow.png", &png_claiming(10_000, 10_000));
    assert!(start.elapsed().as_secs() < 20);
}

#[test]
fn damaged_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged");
    let mut seed = 1u32;
    for name in [
        "rgba16.png",
        "palette-transparent.png",
        "420.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "lossy.webp",
        "lossless-alpha.webp",
    ] {
        let whole = std::fs::read(crate::fixture("image/formats").join(name)).unwrap();
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (seed >> 8) as usize % bytes.len();
                bytes[at] = seed as u8;
            }
            std::fs::write(&path, bytes).unwrap();
            // Either answer is right; only a panic is not.
            let _ = read::open(&path);
            let _ = read::png_text(&path);
        }
    }
}

#[test]
fn png_text_reads_what_pillow_wrote() {
    let text = read::png_text(crate::fixture("image/text.png")).unwrap();
    let expected = [
        ("parameters", "a cat, café\nSteps: 20".to_owned()),
        ("squeezed", "long ".repeat(100)),
        ("caption", "猫 and 🐈".to_owned()),
        ("squeezed caption", "猫".repeat(200)),
    ];
    assert_eq!(text, expected.map(|(keyword, text)| (keyword.to_owned(), text)));
}

#[test]
fn a_written_png_holds_its_pixels_and_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.png");
    let text: Vec<(String, String)> = [
        ("parameters", "a dog, café\nSteps: 30"),
        ("impasto", "{\"prompt\": \"猫\"}"),
        ("empty", ""),
        ("null", "a\0b"),
        ("clé", "latin key"),
    ]
    .map(|(keyword, text)| (keyword.to_owned(), text.to_owned()))
    .into();
    write::png(&path, &crop("chelsea"), &text).unwrap();
    assert_eq!(read::open(&path).unwrap(), crop("chelsea"));
    assert_eq!(read::png_text(&path).unwrap(), text);
    // A1111 and its readers look for tEXt; text beyond Latin-1 must go to iTXt.
    let bytes = std::fs::read(&path).unwrap();
    let chunk = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    assert!(chunk(b"tEXtparameters\0a dog") && chunk(b"iTXtimpasto\0"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn bad_keywords_and_empty_pictures_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.png");
    for keyword in ["", "猫", "a\nb", "a\0b", &"k".repeat(80)] {
        let text = [(keyword.to_owned(), "text".to_owned())];
        let error = write::png(&path, &crop("noise"), &text).unwrap_err();
        assert!(error.to_string().contains("1 to 79"), "{error}");
    }
    assert!(write::png(&path, &RgbImage::new(0, 0), &[]).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_failed_write_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let error = write::bytes(dir.join("missing/out.bin"), b"new").unwrap_err();
    assert!(error.to_string().contains("no folder") && error.hint().is_some(), "{error}");
    assert!(write::bytes(dir, b"new").unwrap_err().to_string().contains("folder"));
    assert!(write::bytes("", b"new").is_err());
    assert!(write::bytes(dir.join(".."), b"new").is_err());
    let through = dir.join("file");
    write::bytes(&through, b"old").unwrap();
    assert!(write::bytes(through.join("out.bin"), b"new").is_err());

    let mut permissions = std::fs::metadata(&through).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&through, permissions).unwrap();
    let error = write::bytes(&through, b"new").unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    assert_eq!(std::fs::read(&through).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn a_write_replaces_the_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.bin");
    write::bytes(&path, &[1; 5000]).unwrap();
    write::bytes(&path, b"short").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"short");
    let long = folder.path().join(format!("{}.bin", "n".repeat(250)));
    write::bytes(&long, b"long name").unwrap();
    assert_eq!(std::fs::read(&long).unwrap(), b"long name");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[cfg(unix)]
#[test]
fn a_write_keeps_links_devices_and_the_umask() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (target, link) = (folder.path().join("target"), folder.path().join("link"));
    std::fs::write(&target, b"old").unwrap();
    symlink("target", &link).unwrap();
    write::bytes(&link, b"new").unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::read(&target).unwrap(), b"new");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let plain = folder.path().join("plain");
    std::fs::write(&plain, b"").unwrap();
    assert_eq!(mode(&target), mode(&plain));

    write::bytes("/dev/null", b"gone").unwrap();
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    if Path::new("/dev/full").exists() {
        let error = write::bytes("/dev/full", &[0; 100_000]).unwrap_err();
        assert!(error.to_string().contains("/dev/full"), "{error}");
    }
}

/// A chunk, its checksum included.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind.as_slice(), data].concat();
    [&u32::try_from(data.len()).unwrap().to_be_bytes(), body.as_slice(), &crc32(&body).to_be_bytes()].concat()
}

/// The text of a file made of these chunks after the signature.
fn text_of(chunks: &[Vec<u8>]) -> impasto::Result<Vec<(String, String)>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [b"\x89PNG\r\n\x1a\n".as_slice(), &chunks.concat()].concat()).unwrap();
    read::png_text(file.path())
}

#[test]
fn hostile_text_chunks_are_bounded() {
    let end = chunk(b"IEND", b"");
    let pair = |keyword: &str, text: &str| (keyword.to_owned(), text.to_owned());
    // Text after the picture data is found, malformed text is left out.
    let chunks = [
        chunk(b"IDAT", &[0; 100]),
        chunk(b"tEXt", b"no null"),
        chunk(b"zTXt", b"key\0\x01not deflate"),
        chunk(b"zTXt", b"key\0\0not deflate"),
        chunk(b"zTXt", b"key\0"),
        chunk(b"iTXt", b"key\0\0\0en"),
        chunk(b"iTXt", b"key\0\x02\0\0\0x"),
        chunk(b"iTXt", b"key\0\0\0\0\0\xff\xfe"),
        chunk(b"tEXt", b"good\0one"),
        end.clone(),
    ];
    assert_eq!(text_of(&chunks).unwrap(), [pair("good", "one")]);

    let bomb = {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(b"key\0\0".to_vec(), flate2::Compression::best());
        for _ in 0..17 {
            encoder.write_all(&vec![b'a'; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap()
    };
    assert!(bomb.len() < 100_000);
    let too_much = |chunks: &[Vec<u8>]| {
        let error = text_of(chunks).unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
    };
    too_much(&[chunk(b"zTXt", &bomb), end.clone()]);
    // Each within the limit, together not.
    let large = chunk(b"tEXt", &[b"k\0".as_slice(), &vec![b'x'; 6 << 20]].concat());
    assert_eq!(text_of(&[large.clone(), large.clone(), end.clone()]).unwrap().len(), 2);
    too_much(&[large.clone(), large.clone(), large, end.clone()]);
    too_much(&vec![chunk(b"tEXt", b"k\0v"); 1025]);

    // Lengths that lie.
    let lying = |length: u32| [&length.to_be_bytes(), b"tEXtk\0v".as_slice()].concat();
    for length in [5, 1 << 20, i32::MAX as u32, u32::MAX] {
        assert!(text_of(&[lying(length)]).is_err());
    }
    assert!(text_of(&[]).unwrap_err().to_string().contains("cut short"));
    assert!(text_of(&[chunk(b"IDAT", b"x")]).unwrap_err().to_string().contains("cut short"));
    let error = read::png_text(crate::fixture("image/formats/444.jpg")).unwrap_err();
    assert!(error.to_string().contains("not a PNG"), "{error}");
}
