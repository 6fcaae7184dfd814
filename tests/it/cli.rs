//! The program as a user meets it: exit codes, messages, what is written and what is not.

use super::program::{Place, Run, finish, picture, program, refused, run, tiny};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// `generate` with the tiny model, few steps, and what a test adds.
fn paint(output: &str, more: &[&str]) -> Run {
    let model = tiny("model");
    let mut args =
        vec!["generate", "--model", &model, "--prompt", "a boat", "--steps", "2", "--width", "64", "--height", "64"];
    args.extend(["--seed", "7", "-o", output]);
    for (index, arg) in more.iter().enumerate() {
        // A flag the test gives itself replaces ours.
        if let Some(at) = args.iter().position(|ours| ours == arg && arg.starts_with('-')) {
            args.drain(at..at + 2);
        }
        let _ = index;
    }
    args.extend(more);
    run(&args)
}

#[test]
fn wrong_numbers_are_refused_by_their_flags() {
    let place = Place::new();
    let out = place.text("out.png");
    picture(&place.path("in.png"), 64, 64);
    let input = place.text("in.png");
    let cases: &[(&[&str], &str)] = &[
        (&["--width", "0"], "--width"),
        (&["--width", "7"], "--width"),
        (&["--height", "100000"], "--height"),
        (&["--height", "-8"], "--height"),
        (&["--steps", "0"], "--steps"),
        (&["--steps", "many"], "--steps"),
        (&["--guidance", "NaN"], "--guidance"),
        (&["--guidance", "inf"], "--guidance"),
        (&["--guidance", "-1"], "--guidance"),
        (&["--guidance-start", "0.9", "--guidance-end", "0.1"], "--guidance-start"),
        (&["--guidance-end", "2"], "--guidance-end"),
        (&["--fast", "turbo"], "--fast"),
        (&["--fast", "deepcache=1"], "--fast"),
        (&["--seed", "-1"], "--seed"),
        (&["--count", "0"], "--count"),
        (&["--threads", "0"], "--threads"),
        (&["--sampler", "fastest"], "--sampler"),
        (&["--device", "gpu"], "--device"),
        (&["--dtype", "f8"], "--dtype"),
        (&["--init", &input, "--strength", "2"], "--strength"),
        (&["--init", &input, "--strength", "0"], "--strength"),
        (&["--init", &input, "--strength", "nan"], "--strength"),
        (&["--structure", &input, "--control-start", "0.9", "--control-end", "0.1"], "--control-start"),
        (&["--structure", &input, "--canny-low", "300", "--canny-high", "200"], "--canny-low"),
        (&["--strength", "0.5"], "--strength"),
        (&["--style-scale", "0.5"], "--style-scale"),
        (&["--controlnet", "x"], "--controlnet"),
        (&["--mask", &input], "--mask"),
        (&["--style", &input], "--style"),
        (&["--structure", &input], "--structure"),
        (&["--preset", "sd99"], "sd99"),
        (&["--nonsense"], "--nonsense"),
    ];
    for (more, subject) in cases {
        refused(&paint(&out, more), 2, subject);
    }
    assert_eq!(place.files(), ["in.png"]);
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_painting() {
    let place = Place::new();
    picture(&place.path("in.png"), 64, 64);
    refused(&paint(&place.text(""), &[]), 2, "--output");
    refused(&paint(&place.text("out.jpg"), &[]), 2, "out.jpg");
    refused(&paint(&place.text("missing/out.png"), &[]), 2, "missing/out.png");
    refused(&paint(&place.text("in.png"), &["--init", &place.text("in.png")]), 2, "in.png");
    refused(
        &paint(
            &place.text("out.png"),
            &[
                "--structure",
                &place.text("in.png"),
                "--controlnet",
                &tiny("controlnet"),
                "--control-map",
                &place.text("map.bmp"),
            ],
        ),
        2,
        "--control-map",
    );
    let before = std::fs::read(place.path("in.png")).unwrap();
    assert_eq!(place.files(), ["in.png"]);
    let mut permissions = std::fs::metadata(place.path("in.png")).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(place.path("in.png"), permissions).unwrap();
    refused(&paint(&place.text("in.png"), &[]), 2, "read-only");
    assert_eq!(std::fs::read(place.path("in.png")).unwrap(), before);
    if cfg!(target_os = "linux") {
        // No file can be made there, not even by root.
        refused(&paint("/proc/out.png", &[]), 1, "/proc");
        // A full disk.
        let full = paint("/dev/full", &[]);
        refused(&full, 1, "/dev/full");
        assert!(full.stderr.contains("No space left"), "{}", full.stderr);
    }
}

#[test]
fn pictures_that_cannot_be_read_are_refused() {
    let place = Place::new();
    let out = place.text("out.png");
    picture(&place.path("whole.png"), 64, 64);
    let whole = std::fs::read(place.path("whole.png")).unwrap();
    std::fs::write(place.path("half.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(place.path("empty.png"), b"").unwrap();
    std::fs::write(place.path("text.png"), b"this is no picture").unwrap();
    let (adapter, controlnet) = (tiny("ip-adapter.safetensors"), tiny("controlnet"));
    for name in ["half.png", "empty.png", "text.png", "missing.png", ""] {
        let input = place.text(name);
        let named = if name.is_empty() { place.0.path().to_str().unwrap() } else { name };
        for more in [
            vec!["--init", &input],
            vec!["--style", &input, "--ip-adapter", &adapter],
            vec!["--structure", &input, "--controlnet", &controlnet],
        ] {
            let run = paint(&out, &more);
            refused(&run, 1, named);
        }
    }
    assert!(!place.path("out.png").exists());
}

#[test]
fn models_that_cannot_be_read_are_refused() {
    let place = Place::new();
    let out = place.text("out.png");
    std::fs::write(place.path("garbage.safetensors"), [0xff; 64]).unwrap();
    std::fs::write(place.path("empty.ckpt"), b"").unwrap();
    std::fs::write(place.path("notes.txt"), b"hello").unwrap();
    for name in ["missing", "missing.safetensors", "garbage.safetensors", "empty.ckpt", "notes.txt"] {
        let run = paint(&out, &["--model", &place.text(name)]);
        assert!(matches!(run.code, Some(1 | 2)), "{}", run.stderr);
        refused(&run, run.code.unwrap(), name);
    }
    // A folder whose UNet is cut short.
    let copy = place.path("cut");
    copy_folder(Path::new(&tiny("model")), &copy);
    let unet = copy.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&unet).unwrap();
    std::fs::write(&unet, &bytes[..bytes.len() / 2]).unwrap();
    refused(&paint(&out, &["--model", copy.to_str().unwrap()]), 1, "diffusion_pytorch_model.safetensors");
    assert!(!place.path("out.png").exists());
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn names_that_do_not_exist_are_refused() {
    let place = Place::new();
    let out = place.text("out.png");
    picture(&place.path("in.png"), 64, 64);
    let input = place.text("in.png");
    let adapter = tiny("ip-adapter.safetensors");
    let blocks = ["--style", &input, "--ip-adapter", &adapter, "--style-blocks", "attic=1"];
    refused(&paint(&out, &blocks), 2, "attic");
    refused(&paint(&out, &["--model", "sd99"]), 2, "sd99");
    let near = paint(&out, &["--model", "ip-adapter-plus"]);
    refused(&near, 2, "ip-adapter-plus");
    assert!(near.stderr.contains("did you mean ip-adapter-plus-sd15"), "{}", near.stderr);
    refused(&run(&["generate", "-o", &out]), 2, "--prompt");
    refused(&run(&["generate", "--prompt", "x"]), 2, "--output");
    refused(&run(&["paint"]), 2, "paint");
    refused(&run(&[]), 2, "command");
    assert_eq!(place.files(), ["in.png"]);
}

#[cfg(unix)]
#[test]
fn arguments_that_are_not_utf8_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let odd = std::ffi::OsStr::from_bytes(b"odd-\xff");
    let mut command = program();
    command.arg("generate").arg("--prompt").arg(odd).arg("-o").arg(place.path("out.png"));
    refused(&finish(command), 2, "--prompt");
    // A path may be any bytes; this one is simply not there.
    let mut command = program();
    command.args(["generate", "--prompt", "x", "--model"]).arg(odd).arg("-o").arg(place.path("out.png"));
    refused(&finish(command), 2, "--model");
    assert!(place.files().is_empty());
}

#[test]
fn a_picture_carries_its_recipe_and_is_repeated_to_the_byte() {
    let place = Place::new();
    picture(&place.path("style.png"), 80, 60);
    picture(&place.path("structure.png"), 96, 64);
    let (style, structure) = (place.text("style.png"), place.text("structure.png"));
    let (adapter, controlnet) = (tiny("ip-adapter-plus.safetensors"), tiny("controlnet"));
    let (one, two, three) = (place.text("one.png"), place.text("two.png"), place.text("three.png"));
    let more = ["--style", &style, "--ip-adapter", &adapter, "--structure", &structure, "--controlnet", &controlnet];
    let first = paint(&one, &[&more[..], &["--negative", "fog, \"rain\"", "--sampler", "euler-a", "--json"]].concat());
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(first.stderr.is_empty(), "{}", first.stderr);
    let line: serde_json::Value = serde_json::from_str(&first.stdout).unwrap();
    assert_eq!(line["path"], one);
    assert_eq!((line["seed"].as_u64(), line["width"].as_u64(), line["height"].as_u64()), (Some(7), Some(64), Some(64)));
    assert!(line["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(line["recipe"]["settings"]["sampler"], "euler-a");
    assert_eq!(line["recipe"]["inputs"]["style"][0]["sha256"].as_str().unwrap().len(), 64);

    let texts = impasto::image::read::png_text(&one).unwrap();
    let parameters = &texts.iter().find(|(keyword, _)| keyword == "parameters").unwrap().1;
    assert!(
        parameters.starts_with("a boat\nNegative prompt: fog, \"rain\"\nSteps: 2, Sampler: Euler a, "),
        "{parameters}"
    );
    assert!(parameters.contains("Size: 64x64") && parameters.contains("Module: canny"), "{parameters}");

    let again = run(&["generate", "--from", &one, "-o", &two]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(again.stdout, format!("{two}\n"));
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap(), "the same recipe gave other bytes");

    // A flag beside it overrides; a changed picture is told.
    picture(&place.path("style.png"), 48, 48);
    let other = run(&["generate", "--from", &one, "--seed", "8", "-o", &three]);
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    assert!(other.stderr.contains("warning: ") && other.stderr.contains("style.png"), "{}", other.stderr);
    assert!(std::fs::read(&one).unwrap() != std::fs::read(&three).unwrap());
    refused(&run(&["generate", "--from", &style, "-o", &two]), 1, "style.png");
}

#[test]
fn several_pictures_are_those_of_the_following_seeds_on_any_number_of_threads() {
    let place = Place::new();
    let many = paint(&place.text("many.png"), &["--count", "2", "--threads", "2"]);
    assert_eq!(many.code, Some(0), "{}", many.stderr);
    assert_eq!(many.stdout, format!("{}\n{}\n", place.text("many-7.png"), place.text("many-8.png")));
    let single = paint(&place.text("single.png"), &["--seed", "8", "--threads", "1"]);
    assert_eq!(single.code, Some(0), "{}", single.stderr);
    let same = std::fs::read(place.path("many-8.png")).unwrap() == std::fs::read(place.path("single.png")).unwrap();
    assert!(same, "two threads and one gave other bytes");
    assert_eq!(place.files(), ["many-7.png", "many-8.png", "single.png"]);
}

#[test]
fn without_a_seed_one_is_drawn_and_told() {
    let place = Place::new();
    let mut seeds = Vec::new();
    for name in ["a.png", "b.png"] {
        let model = tiny("model");
        let out = place.text(name);
        let args =
            ["generate", "--model", &model, "-p", "x", "--steps", "1", "--width", "32", "--height", "32", "--json"];
        let run = run(&[&args[..], &["-o", &out]].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let line: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        seeds.push(line["seed"].as_u64().unwrap());
    }
    assert_ne!(seeds[0], seeds[1]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_at_the_next_step_and_leaves_nothing() {
    let place = Place::new();
    let mut command = program();
    let model = tiny("model");
    command.args(["generate", "--model", &model, "-p", "x", "--steps", "1000", "--width", "512", "--height", "512"]);
    let mut child = command.arg("-o").arg(place.path("out.png")).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none(), "it was done before it could be stopped");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: interrupted\n");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(place.files().is_empty(), "{:?}", place.files());
}

#[test]
fn control_writes_the_map() {
    let place = Place::new();
    picture(&place.path("in.png"), 60, 44);
    let (input, out) = (place.text("in.png"), place.text("map.png"));
    let run_ = run(&["control", "canny", &input, &out, "--low", "50", "--high", "150"]);
    assert_eq!((run_.code, run_.stdout), (Some(0), format!("{out}\n")));
    let map = ::image::open(&out).unwrap().into_rgb8();
    assert_eq!(map.dimensions(), (60, 44));
    assert!(map.pixels().any(|pixel| pixel.0 == [255; 3]) && map.pixels().any(|pixel| pixel.0 == [0; 3]));
    refused(&run(&["control", "canny", &input, &out, "--low", "NaN"]), 2, "--canny-low");
    refused(&run(&["control", "canny", &place.text("no.png"), &out]), 1, "no.png");
}

#[test]
fn bench_times_each_net() {
    let model = tiny("model");
    let args =
        ["bench", "--model", &model, "--controlnet", &tiny("controlnet"), "--image-encoder", &tiny("image_encoder")];
    let stages = "unet,controlnet,vae-decode,vae-encode,clip-text,clip-vision,picture";
    let more = ["--stages", stages, "--height", "64", "--width", "64", "--repeat", "2", "--steps", "1", "--json"];
    let run = run(&[&args[..], &more].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let timed = report["stages"].as_array().unwrap();
    assert_eq!(timed.len(), 7);
    for (timing, name) in timed.iter().zip(stages.split(',')) {
        assert_eq!(timing["stage"], name);
        assert_eq!(timing["seconds"].as_array().unwrap().len(), 2);
        assert!(timing["median"].as_f64().unwrap() > 0.0);
        assert_eq!(timing["gflops"].is_number(), name != "picture", "{timing}");
    }
    assert!(report["threads"].as_u64().unwrap() > 0);
}

#[test]
fn bench_times_single_layers_without_a_model() {
    let size = ["--height", "64", "--width", "64", "--repeat", "1"];
    let timed = run(&[&["bench", "--stages", "kernels", "--json"], &size[..]].concat());
    assert_eq!(timed.code, Some(0), "{}", timed.stderr);
    let report: serde_json::Value = serde_json::from_str(&timed.stdout).unwrap();
    let names: Vec<_> = report["stages"].as_array().unwrap().iter().map(|row| row["stage"].as_str().unwrap()).collect();
    for kind in
        ["conv3x3/1 320-320 8x8", "conv1x1/1 ", "linear 320-1280 64", "attention 8x40 64x77", "group-norm+silu "]
    {
        assert!(names.iter().any(|name| name.starts_with(kind)), "{kind}: {names:?}");
    }
    refused(&run(&[&["bench", "--stages", "kernels,unet"], &size[..]].concat()), 2, "--model");
    refused(&run(&["bench"]), 2, "--model");
}

#[test]
fn doctor_tells_what_there_is() {
    let run_ = run(&["doctor", "--json"]);
    assert_eq!(run_.code, Some(0), "{}", run_.stderr);
    let report: serde_json::Value = serde_json::from_str(&run_.stdout).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let devices = report["devices"].as_array().unwrap();
    assert!(devices.iter().any(|found| found["device"] == "cpu" && found["skipped"].is_null()));
    assert!(!report["next"].as_array().unwrap().is_empty());
    assert!(run(&["doctor"]).stdout.contains("next"));
}

#[test]
fn help_tells_the_presets_defaults_and_only_what_there_is() {
    let help = run(&["generate", "--help"]);
    assert_eq!(help.code, Some(0));
    let steps = impasto::pipeline::preset::Preset::find("sd15").unwrap().settings.steps.unwrap();
    assert!(help.stdout.contains(&format!("[default: {steps}]")), "{}", help.stdout);
    for page in [run(&["man"]), run(&["man", "generate"]), run(&["completions", "bash"]), run(&["presets", "list"])] {
        assert_eq!(page.code, Some(0), "{}", page.stderr);
        assert!(page.stdout.len() > 200);
    }
    let shown = run(&["presets", "show", "sd15-style"]);
    assert!(shown.stdout.contains("steps") && shown.stdout.contains("ip-adapter"), "{}", shown.stdout);
    refused(&run(&["presets", "show", "sd99"]), 2, "sd99");
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child =
        program().args(["completions", "zsh"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_model_known_by_name_comes_from_the_cache_or_tells_how_to_get_it() {
    let place = Place::new();
    let paint_named = |more: &[&str]| {
        let mut command = program();
        command.env("HF_HUB_CACHE", place.path("cache")).args(["generate", "-p", "x", "--steps", "1", "--seed", "1"]);
        command.args(["--width", "64", "--height", "64", "-o", &place.text("out.png")]).args(more);
        finish(command)
    };
    let absent = paint_named(&[]);
    refused(&absent, 1, "sd15");
    assert!(absent.stderr.contains("hint: "), "{}", absent.stderr);
    // What another tool fetched into the shared cache is used: here, the tiny model under the real one's name.
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = place.path("cache").join("models--stable-diffusion-v1-5--stable-diffusion-v1-5");
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), commit).unwrap();
    copy_folder(Path::new(&tiny("model")), &repository.join("snapshots").join(commit));
    let there = paint_named(&[]);
    assert_eq!(there.code, Some(0), "{}", there.stderr);
    let texts = impasto::image::read::png_text(place.path("out.png")).unwrap();
    assert!(texts[0].1.contains("Model: sd15"), "{}", texts[0].1);
}

#[test]
fn recipes_of_other_programs_are_repeated_and_broken_ones_refused() {
    let place = Place::new();
    let (from, out, model) = (place.text("from.png"), place.text("out.png"), tiny("model"));
    let write = |texts: &[(&str, &str)]| {
        let texts: Vec<_> = texts.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        impasto::image::write::png(&from, &::image::RgbImage::new(8, 8), &texts).unwrap();
    };
    write(&[(
        "parameters",
        "a boat, (blue:1.2)\nNegative prompt: fog\nSteps: 2, Sampler: DPM++ 2M Karras, CFG scale: 5, Seed: 3, Size: 64x48, \
         Model: somewhere, Version: v1.9",
    )]);
    refused(&run(&["generate", "--from", &from, "-o", &out]), 1, "somewhere");
    let painted = run(&["generate", "--from", &from, "--model", &model, "-o", &out, "--json"]);
    assert_eq!(painted.code, Some(0), "{}", painted.stderr);
    let line: serde_json::Value = serde_json::from_str(&painted.stdout).unwrap();
    assert_eq!((line["seed"].as_u64(), line["width"].as_u64(), line["height"].as_u64()), (Some(3), Some(64), Some(48)));
    assert_eq!(line["recipe"]["settings"]["sigmas"], "karras");

    let recipe = line["recipe"].to_string();
    let huge = format!("{{\"version\":1,\"program\":\"{}\"}}", "x".repeat(5 << 20));
    let (deep, odd) = ("[".repeat(100_000), recipe.replace("\"steps\":2", "\"steps\":0"));
    let newer = recipe.replace("\"version\":1", "\"version\":99");
    for broken in ["", "{", "[]", "null", &deep, &odd, &newer, &huge, "{\"version\":1}"] {
        write(&[("impasto", broken)]);
        let run = run(&["generate", "--from", &from, "--model", &model, "-o", &place.text("never.png")]);
        refused(&run, 1, "from.png");
    }
    write(&[("workflow", "{}")]);
    refused(&run(&["generate", "--from", &from, "-o", &out]), 1, "ComfyUI");
    write(&[]);
    refused(&run(&["generate", "--from", &from, "-o", &out]), 1, "from.png");
    assert!(!place.path("never.png").exists());
}

#[test]
fn inspect_writes_a_sheet_and_says_where_a_network_comes_from() {
    let place = Place::new();
    picture(&place.path("in.png"), 48, 40);
    candle_core::safetensors::save(&super::vgg::weights("vgg16"), place.path("net.safetensors")).unwrap();
    let (input, out, net) = (place.text("in.png"), place.text("sheet.png"), place.text("net.safetensors"));
    let args = ["inspect", &input, "-o", &out, "--size", "32", "--steps", "2", "--layers", "relu1_1,relu3_1"];
    let ran = run(&[&args[..], &["--backbone", &net, "--device", "cpu"]].concat());
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), out.as_str()), "{}", ran.stderr);
    let sheet = ::image::open(&out).unwrap();
    assert!(sheet.width() > 900 && sheet.height() > 500);
    std::fs::remove_file(&out).unwrap();

    let mut command = program();
    command.args(args).env("HF_HUB_CACHE", place.path("cache"));
    let none = finish(command);
    refused(&none, 1, "vgg19");
    assert!(
        none.stderr.contains("`impasto weights pull vgg19`") && none.stderr.contains("--backbone"),
        "{}",
        none.stderr
    );
    refused(&run(&["inspect", &input, "-o", &input, "--backbone", &net]), 2, "--output");
    refused(&run(&["inspect", &input, "-o", &out, "--backbone", &input]), 1, "in.png");
    refused(&run(&["inspect", &input, "-o", &out, "--backbone", &net, "--layers", "conv9"]), 2, "conv9");
    assert_eq!(place.files(), ["in.png", "net.safetensors"]);
}
