//! `impasto batch` as a user meets it: what is laid out, what is painted, what survives, and what is refused.

use super::program::{Place, Run, finish, picture, program, refused, run, tiny};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A folder with four photos, two style pictures and a job file.
struct Studio(Place);

impl Studio {
    fn new(jobs: &str) -> Self {
        let place = Place::new();
        for (folder, names) in [("photos", &["a", "b", "c", "d"][..]), ("styles", &["x", "y"])] {
            std::fs::create_dir(place.path(folder)).unwrap();
            for (number, name) in (0u32..).zip(names) {
                picture(&place.path(&format!("{folder}/{name}.png")), 64 - 4 * number, 40 + 8 * number);
            }
        }
        let studio = Self(place);
        studio.write("jobs.toml", jobs);
        studio
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// `batch jobs.toml` with more, in the studio.
    fn batch(&self, more: &[&str]) -> Run {
        let mut command = program();
        command.current_dir(self.0.0.path()).args(["batch", "jobs.toml"]).args(more);
        finish(command)
    }

    fn start(&self, more: &[&str]) -> Child {
        let mut command = program();
        command.current_dir(self.0.0.path()).args(["batch", "jobs.toml"]).args(more);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn planned(&self, more: &[&str]) -> Vec<Value> {
        lines(&done(&self.batch(&[&["--dry-run", "--json"], more].concat())).stdout)
    }

    /// A log, every line of which must be whole.
    fn log(&self, name: &str) -> Vec<Value> {
        lines(&std::fs::read_to_string(self.path(name)).unwrap())
    }

    /// The pictures below a folder and their bytes, without sheets and grids.
    fn pictures(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.path(folder)];
        while let Some(at) = folders.pop() {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.path(folder)).unwrap().to_str().unwrap().to_owned();
                assert!(!name.ends_with(".tmp"), "{name} was left behind");
                if path.is_dir() {
                    folders.push(path);
                } else if name.ends_with(".png") || name.ends_with(".jpg") {
                    found.insert(name, std::fs::read(path).unwrap());
                }
            }
        }
        found
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn done(run: &Run) -> &Run {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run
}

fn texts(lines: &[Value], key: &str) -> Vec<String> {
    let text = |line: &Value| match &line[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    lines.iter().map(text).collect()
}

fn net() -> String {
    super::fixture("stylize/adain.safetensors").to_str().unwrap().to_owned()
}

/// Jobs of `stylize` with the tiny net.
fn stylize(more: &str) -> String {
    format!("output = 'out'\n[defaults]\ncommand = 'stylize'\nnet = '{}'\n[[job]]\n{more}", net())
}

/// Jobs of `generate` with the tiny model.
fn generate(more: &str) -> String {
    let size = "steps = 1\nwidth = 64\nheight = 64";
    format!("output = 'out'\n[defaults]\ncommand = 'generate'\nmodel = '{}'\n{size}\n[[job]]\n{more}", tiny("model"))
}

#[test]
fn a_matrix_becomes_pictures_that_are_those_of_the_commands() {
    let model = tiny("model");
    let jobs = stylize(
        "file = '{content}-{style}-{strength}.png'\ncontent = 'photos'\n[job.matrix]\nstyle = 'styles/*.png'\nstrength = [0.5, 1.0]\n",
    );
    // The net of the defaults is no concern of this one.
    let more = format!(
        "[[job]]\ncommand = 'generate'\nmodel = '{model}'\nsteps = 2\nwidth = 64\nheight = 64\nfile = '{{prompt}}/{{seed}}.png'\n[job.matrix]\nprompt = ['a boat', 'a tree']\nseed = '7..9'\n"
    );
    let studio = Studio::new(&(jobs + &more));
    let painted = studio.batch(&["--json"]);
    let told = lines(&done(&painted).stdout);
    assert_eq!(told, studio.log("out/batch.jsonl"));
    assert!(painted.stderr.is_empty(), "{}", painted.stderr);
    let pictures = studio.pictures("out");
    assert_eq!(pictures.len(), 16 + 4);
    assert_eq!(pictures.keys().cloned().collect::<BTreeSet<_>>(), texts(&told, "path").into_iter().collect());
    for line in &told {
        let path = line["path"].as_str().unwrap();
        assert_eq!(line["status"], "painted");
        assert_eq!(line["bytes"], pictures[path].len());
        assert!(line["seconds"].as_f64().unwrap() > 0.0);
    }

    // The same bytes as the commands write.
    let by_itself = |args: &[&str]| {
        let mut command = program();
        command.current_dir(studio.0.0.path()).args(args).args(["-o", "one.png"]);
        done(&finish(command));
        std::fs::read(studio.path("one.png")).unwrap()
    };
    let net = net();
    let stylized = ["stylize", "photos/c.png", "--net", &net, "--style", "styles/y.png", "--strength", "0.5"];
    assert!(by_itself(&stylized) == pictures["c-y-0.5.png"]);
    let generated = ["generate", "--model", &model, "--prompt", "a tree", "--steps", "2", "--seed", "8"];
    let generated = [&generated[..], &["--width", "64", "--height", "64"]].concat();
    assert!(by_itself(&generated) == pictures["a-tree/8.png"]);
}

#[test]
fn a_dry_run_lists_and_paints_nothing() {
    let studio = Studio::new(&stylize(
        "content = ['photos/d.png', 'photos/a.png']\nstyle = ['styles/x.png', 'styles/y.png:2']\n",
    ));
    let listed = studio.batch(&["--dry-run"]);
    assert_eq!(done(&listed).stdout.lines().count(), 2);
    assert!(listed.stdout.starts_with("out/001.png  stylize content=photos/d.png"), "{}", listed.stdout);
    assert!(listed.stdout.contains("style=styles/x.png+styles/y.png:2"), "{}", listed.stdout);
    assert!(listed.stderr.contains("2 pictures, one set of nets"), "{}", listed.stderr);
    assert!(!studio.path("out").exists());
}

#[test]
fn wildcards_and_zips_are_laid_out() {
    let studio = Studio::new(&generate(
        "prompt = 'a __animals__ in the __land/places__'\nfile = '{animals}-{land/places}.png'\n[[job]]\nfile = 'zip-{animals}-{seed}.png'\nwildcards = 'zip'\n[job.zip]\nprompt = 'two __animals__, __land/places__'\nseed = '5..7'\n",
    ));
    studio.write("animals.txt", "# who\nfox\n\n  red hen  \n");
    std::fs::create_dir(studio.path("land")).unwrap();
    studio.write("land/places.txt", "snow\nsun\n");
    // One text for a zip of two is of another length.
    let uneven = studio.batch(&["--dry-run"]);
    refused(&uneven, 2, "jobs.toml:16: seed: 2 values, but prompt has 1");

    let text = std::fs::read_to_string(studio.path("jobs.toml")).unwrap();
    studio.write(
        "jobs.toml",
        &text.replace("'two __animals__, __land/places__'", "['two __animals__', '__animals__, __land/places__']"),
    );
    let planned = studio.planned(&[]);
    let prompts: Vec<_> = planned.iter().map(|line| line["keys"]["prompt"].as_str().unwrap()).collect();
    assert_eq!(
        prompts,
        [
            "a fox in the snow",
            "a fox in the sun",
            "a red hen in the snow",
            "a red hen in the sun",
            "two fox",
            "red hen, sun"
        ]
    );
    assert_eq!(
        texts(&planned, "path"),
        ["fox-snow.png", "fox-sun.png", "red-hen-snow.png", "red-hen-sun.png", "zip-fox-5.png", "zip-red-hen-6.png"]
    );
    std::fs::remove_file(studio.path("animals.txt")).unwrap();
    let missing = studio.batch(&["--dry-run"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("jobs.toml:9: prompt: animals.txt"), "{}", missing.stderr);
}

#[test]
fn what_needs_the_same_nets_is_painted_together() {
    let (one, two) = (tiny("model"), tiny("v-prediction"));
    let studio = Studio::new(&generate(&format!(
        "prompt = 'x'\n[job.matrix]\nmodel = ['{one}', '{two}']\nseed = [3, 4]\n[[job]]\nprompt = 'y'\n"
    )));
    let planned = studio.planned(&[]);
    // The last one, of the first model, comes before the second model; numbers are those of the file.
    assert_eq!(texts(&planned, "index"), ["1", "2", "5", "3", "4"]);
    done(&studio.batch(&[]));
    let log = studio.log("out/batch.jsonl");
    assert_eq!(texts(&log, "index"), ["1", "2", "5", "3", "4"]);
    assert_eq!(texts(&log, "id"), texts(&planned, "id"));
}

#[test]
fn one_model_serves_jobs_with_different_adapters() {
    let (adapter, encoder, controlnet) = (tiny("ip-adapter.safetensors"), tiny("image_encoder"), tiny("controlnet"));
    let studio = Studio::new(&generate(&format!(
        "prompt = 'x'\n[[job]]\nprompt = 'x'\nip-adapter = '{adapter}'\nimage-encoder = '{encoder}'\n[job.matrix]\nstyle = 'styles'\n[[job]]\nprompt = 'x'\ncontrolnet = '{controlnet}'\nstructure = 'photos/a.png'\n[[job]]\ncommand = 'stylize'\nmethod = 'diffusion'\ncontent = 'photos/a.png'\nstrength = 0.5\nsteps = 2\nip-adapter = '{adapter}'\nimage-encoder = '{encoder}'\n[job.matrix]\nstyle = 'styles'\nseed = [1, 2]\n"
    )));
    done(&studio.batch(&[]));
    let painted = studio.pictures("out");
    assert_eq!(painted.len(), 8);
    assert_eq!(painted.values().collect::<BTreeSet<_>>().len(), 8, "two of the pictures are the same");
    // Each is what it is alone, whatever was painted before.
    for number in [3, 4, 7] {
        std::fs::rename(studio.path("out"), studio.path("before")).unwrap();
        let name = format!("{number:03}.png");
        let mut alone: BTreeMap<_, _> = painted.clone();
        let expected = alone.remove(&name).unwrap();
        std::fs::create_dir(studio.path("out")).unwrap();
        std::fs::copy(studio.path("before/batch.jsonl"), studio.path("out/batch.jsonl")).unwrap();
        alone.iter().for_each(|(name, bytes)| std::fs::write(studio.path(&format!("out/{name}")), bytes).unwrap());
        let again = studio.batch(&["--resume"]);
        assert_eq!(done(&again).stdout, format!("out/{name}\n"));
        assert!(std::fs::read(studio.path(&format!("out/{name}"))).unwrap() == expected, "{name}");
        std::fs::remove_dir_all(studio.path("before")).unwrap();
    }
}

/// 40 pictures of 4 photos.
const FORTY: &str =
    "content = 'photos'\nstyle = 'styles/x.png'\nfile = '{content}/{seed}.png'\n[job.matrix]\nseed = '0..10'\n";

#[test]
fn a_batch_killed_three_times_is_resumed_without_loss() {
    let studio = Studio::new(&stylize(FORTY));
    done(&studio.batch(&["-o", "whole"]));
    let whole = studio.pictures("whole");
    assert_eq!(whole.len(), 40);
    let log = studio.path("out/batch.jsonl");
    let count = || std::fs::read(&log).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
    let mut random = u64::from(std::process::id()) | 1;
    let mut killed = 0;
    for stop in [9, 19, 31] {
        let mut child = studio.start(&["--resume"]);
        let begun = Instant::now();
        while count() < stop && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros(random >> 49));
        if child.try_wait().unwrap().is_none() {
            killed += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 0, "it was over before it could be killed");
    done(&studio.batch(&["--resume"]));
    assert!(studio.pictures("out") == whole);
    let log = studio.log("out/batch.jsonl");
    assert!(log.iter().all(|line| line["status"] != "failed"));
    let indices: BTreeSet<_> = log.iter().map(|line| line["index"].as_u64().unwrap()).collect();
    assert_eq!((log.len(), indices), (40, (1..=40).collect()), "every picture has one line");
    // Nothing is left to do.
    let again = studio.batch(&["--resume"]);
    assert!(done(&again).stdout.is_empty() && again.stderr.contains("40 of 40 pictures are there"), "{}", again.stderr);
}

#[test]
fn a_log_that_was_cut_is_mended_and_pictures_are_known_by_their_recipes() {
    for ending in ["png", "jpg"] {
        let studio =
            Studio::new(&stylize(&FORTY.replace("png'\n[", &format!("{ending}'\n[")).replace("0..10", "0..2")));
        done(&studio.batch(&[]));
        let whole = studio.pictures("out");
        let path = studio.path("out/batch.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        // The last line is torn, one in the middle is missing, one is rubbish; a picture has gone, one was cut short.
        let mended =
            [lines[0], lines[1], lines[2], "rubbish\n", lines[4], lines[5], lines[6], &lines[7][..40]].concat();
        std::fs::write(&path, mended).unwrap();
        let of =
            |number: usize| serde_json::from_str::<Value>(lines[number]).unwrap()["path"].as_str().unwrap().to_owned();
        std::fs::remove_file(studio.path(&format!("out/{}", of(0)))).unwrap();
        std::fs::write(studio.path(&format!("out/{}", of(1))), &whole[&of(1)][..60]).unwrap();
        // A piece of a picture that a killed process was writing, and one that is not ours.
        std::fs::write(studio.path(&format!("out/a/.0.{ending}Ab3dEf.tmp")), b"x").unwrap();
        std::fs::write(studio.path("out/a/.other.pngAb3dEf.tm"), b"x").unwrap();

        let resumed = studio.batch(&["--resume"]);
        let painted: BTreeSet<_> = done(&resumed).stdout.lines().map(str::to_owned).collect();
        assert_eq!(painted, [format!("out/{}", of(0)), format!("out/{}", of(1))].into(), "{}", resumed.stderr);
        assert!(studio.pictures("out") == whole);
        assert!(studio.path("out/a/.other.pngAb3dEf.tm").exists());
        assert!(resumed.stderr.contains("batch.jsonl:4: is no line of a log"), "{}", resumed.stderr);
        assert!(resumed.stderr.contains("its last line was cut short"), "{}", resumed.stderr);
        let text = std::fs::read_to_string(&path).unwrap();
        let log: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let found: Vec<_> =
            log.iter().filter(|line| line["status"] == "found").map(|line| line["path"].clone()).collect();
        assert_eq!(found, [of(3), of(7)]);
    }
}

#[test]
fn a_missing_log_costs_nothing_but_itself() {
    let studio = Studio::new(&generate("prompt = 'x'\n[job.matrix]\nseed = '0..3'\n"));
    done(&studio.batch(&[]));
    std::fs::remove_file(studio.path("out/batch.jsonl")).unwrap();
    refused(&studio.batch(&[]), 2, "out/001.png is there already");
    let resumed = studio.batch(&["--resume"]);
    assert!(done(&resumed).stdout.is_empty(), "{}", resumed.stdout);
    assert_eq!(texts(&studio.log("out/batch.jsonl"), "status"), ["found"; 3]);
    // With other settings it is another picture.
    std::fs::remove_file(studio.path("out/batch.jsonl")).unwrap();
    let text = std::fs::read_to_string(studio.path("jobs.toml")).unwrap();
    studio.write("jobs.toml", &text.replace("steps = 1", "steps = 2"));
    assert_eq!(done(&studio.batch(&["--resume"])).stdout.lines().count(), 3);
}

#[test]
fn pictures_of_other_settings_are_not_painted_over() {
    let studio = Studio::new(&stylize(FORTY).replace("0..10", "0..1"));
    done(&studio.batch(&[]));
    let before = studio.pictures("out");
    refused(&studio.batch(&[]), 2, "is there already");
    studio.write("jobs.toml", &stylize(&FORTY.replace("0..10", "0..1").replace("styles/x", "styles/y")));
    let changed = studio.batch(&["--resume"]);
    refused(&changed, 1, "was painted for other settings than the job file has now, and 3 more");
    assert!(studio.pictures("out") == before);
    std::fs::remove_dir_all(studio.path("out/a")).unwrap();
    refused(&studio.batch(&["--resume"]), 1, "and 2 more");
}

#[test]
fn a_picture_that_fails_is_recorded_and_the_rest_goes_on() {
    let studio = Studio::new(&stylize(FORTY).replace("0..10", "0..2"));
    let whole = std::fs::read(studio.path("photos/b.png")).unwrap();
    std::fs::write(studio.path("photos/b.png"), &whole[..whole.len() / 2]).unwrap();
    let broken = studio.batch(&[]);
    assert_eq!(broken.code, Some(1));
    assert_eq!(broken.stdout.lines().count(), 6);
    assert!(broken.stderr.contains("error: out/b/0.png: photos/b.png:"), "{}", broken.stderr);
    assert!(broken.stderr.contains("2 of 8 pictures could not be painted: see out/batch.jsonl"), "{}", broken.stderr);
    let log = studio.log("out/batch.jsonl");
    let failed: Vec<_> = log.iter().filter(|line| line["status"] == "failed").collect();
    assert_eq!((log.len(), failed.len()), (8, 2));
    assert!(failed[0]["error"].as_str().unwrap().contains("photos/b.png") && failed[0].get("bytes").is_none());
    // Once it is mended, that picture alone is painted.
    std::fs::write(studio.path("photos/b.png"), &whole).unwrap();
    let resumed = studio.batch(&["--resume"]);
    assert_eq!(done(&resumed).stdout, "out/b/0.png\nout/b/1.png\n");
}

#[test]
fn parts_are_disjoint_and_complete_and_need_not_know_each_other() {
    let studio = Studio::new(&stylize(FORTY).replace("0..10", "0..5"));
    let all: BTreeSet<_> = texts(&studio.planned(&[]), "path").into_iter().collect();
    let mut seen = BTreeSet::new();
    let mut children = Vec::new();
    for part in ["1/3", "2/3", "3/3"] {
        let mine = texts(&studio.planned(&["--shard", part]), "path");
        assert!(!mine.is_empty());
        for path in mine {
            assert!(seen.insert(path.clone()), "{path} is in two parts");
        }
        children.push(studio.start(&["--shard", part]));
    }
    assert_eq!(seen, all);
    for mut child in children {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    assert_eq!(studio.pictures("out").into_keys().collect::<BTreeSet<_>>(), all);
    let logs = ["batch-1-of-3.jsonl", "batch-2-of-3.jsonl", "batch-3-of-3.jsonl"];
    assert_eq!(logs.iter().map(|log| studio.log(&format!("out/{log}")).len()).sum::<usize>(), 20);
    // The whole knows what its parts have done, and so does another division.
    assert!(done(&studio.batch(&["--resume", "--sheet"])).stdout.is_empty());
    assert!(done(&studio.batch(&["--resume", "--shard", "1/2"])).stdout.is_empty());
    assert!(studio.path("out/sheet.png").exists());
    for wrong in ["3/2", "0/2", "1/0", "x", "1"] {
        refused(&studio.batch(&["--shard", wrong]), 2, "--shard");
    }
}

#[test]
fn two_processes_do_not_share_a_folder_by_accident() {
    let studio = Studio::new(&stylize(FORTY).replace("0..10", "0..400"));
    let wait = |name: &str| {
        let begun = Instant::now();
        while !studio.path(name).exists() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let stop = |mut child: Child| {
        assert!(child.try_wait().unwrap().is_none(), "it was over too soon");
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let first = studio.start(&[]);
    wait("out/batch.jsonl");
    let second = studio.batch(&["--resume"]);
    refused(&second, 1, "another `impasto batch` paints this folder");
    refused(&studio.batch(&["--shard", "1/2", "--resume"]), 1, "another `impasto batch`");
    stop(first);
    let part = studio.start(&["--resume", "--shard", "1/2"]);
    wait("out/batch-1-of-2.jsonl");
    refused(&studio.batch(&["--resume"]), 1, "another `impasto batch`");
    refused(&studio.batch(&["--resume", "--shard", "1/2"]), 1, "part 1/2");
    refused(&studio.batch(&["--resume", "--shard", "1/3"]), 1, "part 1/2");
    let other = studio.start(&["--resume", "--shard", "2/2"]);
    wait("out/batch-2-of-2.jsonl");
    stop(other);
    stop(part);
}

#[test]
fn time_and_disks_run_out_in_good_order() {
    let studio = Studio::new(&stylize(FORTY).replace("0..10", "0..5"));
    let short = studio.batch(&["--max-hours", "0.00003"]);
    assert_eq!(short.code, Some(1));
    assert!(short.stderr.contains("hours are over with"), "{}", short.stderr);
    assert!(short.stderr.contains("--resume"), "{}", short.stderr);
    let painted = short.stdout.lines().count();
    assert!(painted < 20 && studio.log("out/batch.jsonl").len() == painted);
    for wrong in ["0", "-1", "nan", "inf", "x"] {
        refused(&studio.batch(&["--max-hours", wrong, "--resume"]), 2, "--max-hours");
    }
    #[cfg(target_os = "linux")]
    {
        std::fs::create_dir(studio.path("full")).unwrap();
        std::os::unix::fs::symlink("/dev/full", studio.path("full/batch.jsonl")).unwrap();
        // Reading it back gives zeros without end.
        let full = studio.batch(&["-o", "full"]);
        assert_eq!(full.code, Some(1));
        assert!(full.stderr.contains("No space left") && full.stderr.contains("make room"), "{}", full.stderr);
        assert_eq!(studio.pictures("full").len(), 1, "it went on without a log");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_half_written() {
    let studio = Studio::new(&stylize(FORTY).replace("0..10", "0..400"));
    let child = studio.start(&[]);
    let begun = Instant::now();
    while !studio.path("out/batch.jsonl").exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    let stopped = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    let mut child = child;
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let log = studio.log("out/batch.jsonl");
    assert_eq!(studio.pictures("out").len(), log.len());
}

#[test]
fn what_is_wrong_in_a_file_is_told_by_line_and_key() {
    let studio = Studio::new("");
    let head = "command = 'stylize'\ncontent = 'photos'\nstyle = 'styles/x.png'\n";
    let painting = "command = 'generate'\nprompt = 'x'\n";
    let cases: &[(&str, &str, &str)] = &[
        (head, "strenght = 1.0\n", "jobs.toml:5: strenght: is no key of stylize"),
        (head, "strength = 2.0\n", "jobs.toml:5: strength: 2 is not between 0 and 1"),
        (head, "strength = 'much'\n", "jobs.toml:5: strength: \"much\" is not a number"),
        (head, "strength = [0.5, 1]\n", "jobs.toml:5: strength: is a list"),
        (head, "size = 0\n", "jobs.toml:5: size: 0 is not between"),
        (head, "size = -4\n", "jobs.toml:5: size: -4 is not a whole number"),
        (head, "method = 'adian'\n", "jobs.toml:5: method: \"adian\" is not one of"),
        (head, "iterations = 3\n", "jobs.toml:5: iterations: has no effect with --method adain"),
        (head, "mask = 'no.png'\n", "jobs.toml:5: mask: no.png"),
        (head, "net = 'no.safetensors'\n", "jobs.toml:5: net: no.safetensors"),
        (head, "encoder = 'styles/x.png'\n", "decoder"),
        (head, "output = 'x'\n", "jobs.toml:5: output: is no key of a job"),
        (head, "frames = true\n", "jobs.toml:5: frames: is no key of a job"),
        (head, "structure = 'a.png'\n", "jobs.toml:5: structure: is a key of generate, not of stylize"),
        (head, "matrix = 3\n", "jobs.toml:5: matrix: is a table"),
        (head, "grid = ['seed']\n", "jobs.toml:5: grid: \"seed\" is no axis"),
        (head, "file = '{seed}.bmp'\n", "jobs.toml:5: file: "),
        (head, "[job.matrix]\nstyle = 'nothing/*.png'\n", "jobs.toml:6: style: stands on line 4"),
        (head, "[job.matrix]\nmask = ['photos/*.gif']\n", "jobs.toml:6: mask: photos/*.gif: fits no file"),
        (head, "[job.matrix]\nseed = []\n", "jobs.toml:6: seed: is no list"),
        (head, "[job.matrix]\nstrength = 0.5\n", "jobs.toml:6: strength: is no list"),
        (head, "[job.matrix]\nstrength = [\n  0.5,\n  7.0,\n]\n", "jobs.toml:8: strength: 7 is not between"),
        (head, "[job.matrix]\nwildcards = ['a']\n", "jobs.toml:6: wildcards: is no key of stylize"),
        (head, "[[job]]\n", "jobs.toml:5: command: is missing"),
        (head, "[[job]]\ncommand = 'paint'\n", "jobs.toml:6: command: \"paint\""),
        (head, "[[job]]\nname = 'job1'\n".trim_end_matches('\n'), "jobs.toml:5: command: is missing"),
        (head, "= 3\n", "jobs.toml:5"),
        (painting, "steps = 0\n", "jobs.toml:4: steps: 0 is not between"),
        (painting, "width = 100\n", "jobs.toml:4: width: 100 is not a multiple of 8"),
        (painting, "strength = 0.5\n", "jobs.toml:4: strength: has no effect without"),
        (painting, "seed = '0..4'\n", "jobs.toml:4: seed: \"0..4\" is not a whole number"),
        (painting, "model = 'no/such'\n", "jobs.toml:4: model: there is no file"),
        (painting, "preset = 'sd99'\n", "jobs.toml:4: preset: there is no preset"),
        (painting, "init = 'no.png'\n", "jobs.toml:4: init: no.png"),
        (painting, "init = 'photos/*.png'\n", "jobs.toml:4: init: \"photos/*.png\" is no file"),
        (painting, "style-blocks = 'some'\n", "jobs.toml:4: style-blocks: "),
        (painting, "count = 4\n", "jobs.toml:4: count: is no key of a job"),
        (painting, "guidance = nan\n", "jobs.toml:4: guidance: nan"),
        (painting, "negative = '__gone__'\n", "gone.txt"),
    ];
    for (head, more, told) in cases {
        studio.write("jobs.toml", &format!("[[job]]\n{head}{more}"));
        let run = studio.batch(&[]);
        assert_eq!(run.code, Some(2), "{more}: {}", run.stderr);
        assert!(run.stderr.contains(told), "{more}: `{told}` is not in\n{}", run.stderr);
        assert!(run.stdout.is_empty() && !studio.path("jobs").exists(), "{more}: it was begun");
    }
    for (text, told) in [
        ("", "jobs.toml:1: job: is missing"),
        ("jobs = []\n", "jobs.toml:1: jobs: is no key of a job file"),
        ("[defaults]\nname = 'x'\n", "jobs.toml:2: name: belongs to a job"),
        ("[defaults]\nsteeps = 3\n[[job]]\n", "jobs.toml:2: steeps: is no key"),
        ("[job]\ncommand = 'stylize'\n", "jobs.toml:1: job: is a list of tables"),
        (
            "[defaults]\ncommand = 'stylize'\n[[job]]\nname = 'a'\n[[job]]\nname = 'A'\n",
            "jobs.toml:5: name: \"A\" is the name",
        ),
    ] {
        studio.write("jobs.toml", text);
        let run = studio.batch(&[]);
        assert_eq!(run.code, Some(2), "{text}: {}", run.stderr);
        assert!(run.stderr.contains(told), "{text}: `{told}` is not in\n{}", run.stderr);
    }
    // All of it at once.
    studio.write("jobs.toml", "[[job]]\ncommand = 'stylize'\nstrenght = 1\nsiez = 3\nstyle = 4\n");
    assert_eq!(studio.batch(&[]).stderr.matches("error: jobs.toml:").count(), 3);
    std::fs::write(studio.path("jobs.toml"), [0xff, 0xfe]).unwrap();
    refused(&studio.batch(&[]), 1, "not UTF-8");
    refused(&run(&["batch", &studio.0.text("no.toml")]), 1, "no.toml");
    refused(&run(&["batch", &studio.0.text("")]), 1, "is a folder");
    refused(&run(&["batch"]), 2, "JOBS.toml");
}

#[test]
fn a_picture_that_goes_in_is_never_painted_over() {
    let studio = Studio::new(&stylize("content = 'photos'\nstyle = 'styles/x.png'\nfile = '{content}.png'\n"));
    let before = studio.pictures("photos");
    refused(&studio.batch(&["-o", "photos", "--resume"]), 2, "is also a file that goes in");
    assert!(studio.pictures("photos") == before);
}

#[test]
fn paths_are_from_the_files_own_folder() {
    let studio = Studio::new(&stylize("content = 'photos/a.png'\nstyle = 'styles/x.png'\n"));
    let file = studio.0.text("jobs.toml");
    let run = run(&["batch", &file]);
    assert_eq!(done(&run).stdout.trim(), studio.0.text("out/001.png"));
    assert!(studio.path("out/001.png").exists());
    studio.write(
        "night.toml",
        &stylize("content = 'photos/a.png'\nstyle = 'styles/x.png'\n").replace("output = 'out'\n", ""),
    );
    let mut command = program();
    command.current_dir(studio.path("photos")).args(["batch", "../night.toml"]);
    assert_eq!(done(&finish(command)).stdout.trim(), "../night/001.png");
    let mut command = program();
    command.current_dir(studio.path("photos")).args(["batch", "../night.toml", "-o", "here"]);
    assert_eq!(done(&finish(command)).stdout.trim(), "here/001.png");
    assert!(studio.path("photos/here/001.png").exists());
}

#[test]
fn sheets_and_grids_show_what_was_painted() {
    let studio = Studio::new(&stylize(
        "name = 'Two by two'\ncontent = ['photos/a.png', 'photos/b.png']\ngrid = ['strength', 'content']\n[job.matrix]\nstyle = 'styles'\nstrength = [0.0, 0.4, 1.0]\n",
    ));
    let drawn = studio.batch(&["--sheet", "--grid"]);
    assert!(done(&drawn).stderr.contains("out/grid-Two-by-two.png"), "{}", drawn.stderr);
    let open = |name: &str| ::image::open(studio.path(name)).unwrap().into_rgb8();
    let (sheet, grid) = (open("out/sheet.png"), open("out/grid-Two-by-two.png"));
    let within = |whole: &::image::RgbImage, part: &::image::RgbImage| {
        let fits =
            |x: u32, y: u32| part.enumerate_pixels().all(|(dx, dy, pixel)| whole.get_pixel(x + dx, y + dy) == pixel);
        let places =
            (0..=whole.height() - part.height()).flat_map(|y| (0..=whole.width() - part.width()).map(move |x| (x, y)));
        places.into_iter().find(|(x, y)| fits(*x, *y))
    };
    // Painted smaller than a cell, they are on both as they are; strength from left to right, photos downwards, a panel
    // for each style.
    let log = studio.log("out/batch.jsonl");
    assert_eq!(log.len(), 12);
    let mut places = BTreeMap::new();
    for line in &log {
        let painted = open(&format!("out/{}", line["path"].as_str().unwrap()));
        within(&sheet, &painted).unwrap_or_else(|| panic!("{line} is not on the sheet"));
        let keys = &line["keys"];
        let key = (keys["style"].to_string(), keys["content"].to_string(), keys["strength"].to_string());
        places.insert(key, within(&grid, &painted));
    }
    let at = |style: &str, content: &str, strength: &str| {
        places[&(format!("\"styles/{style}.png\""), format!("\"photos/{content}.png\""), strength.to_owned())].unwrap()
    };
    for style in ["x", "y"] {
        for content in ["a", "b"] {
            assert!(at(style, content, "0.4").0 < at(style, content, "1.0").0);
        }
        assert!(at(style, "a", "1.0").1 < at(style, "b", "1.0").1);
    }
    assert!(at("x", "b", "1.0").1 < at("y", "a", "1.0").1);
    // Of a picture that is gone, its place stays.
    std::fs::remove_file(studio.path("out/001.png")).unwrap();
    std::fs::write(studio.path("photos/a.png"), b"no picture").unwrap();
    assert_eq!(studio.batch(&["--resume", "--grid"]).code, Some(1));
    assert_eq!(open("out/grid-Two-by-two.png").dimensions(), grid.dimensions());
}

// The part of JSON Schema that ours uses.
fn fits(schema: &Value, root: &Value, value: &Value) -> bool {
    let mut known = 0;
    let mut all = true;
    let rules = schema.as_object().unwrap();
    for (rule, want) in rules {
        known += 1;
        all &= match rule.as_str() {
            "$schema" | "title" | "description" | "definitions" => true,
            "$ref" => fits(root.pointer(want.as_str().unwrap().strip_prefix('#').unwrap()).unwrap(), root, value),
            "type" => match want.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "number" => value.is_number(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            },
            "enum" => want.as_array().unwrap().contains(value),
            "const" => want == value,
            "anyOf" => want.as_array().unwrap().iter().any(|schema| fits(schema, root, value)),
            "allOf" => want.as_array().unwrap().iter().all(|schema| fits(schema, root, value)),
            "required" => value.as_object().is_none_or(|object| {
                want.as_array().unwrap().iter().all(|key| object.contains_key(key.as_str().unwrap()))
            }),
            "properties" => value.as_object().is_none_or(|object| {
                let of = |(key, value): (&String, &Value)| want.get(key).is_none_or(|schema| fits(schema, root, value));
                object.iter().all(of)
            }),
            "additionalProperties" => {
                value.as_object().is_none_or(|object| object.keys().all(|key| schema["properties"].get(key).is_some()))
            }
            "items" => value.as_array().is_none_or(|list| list.iter().all(|value| fits(want, root, value))),
            "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= want.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= want.as_u64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= want.as_u64().unwrap()),
            "minimum" => value.as_f64().is_none_or(|number| number >= want.as_f64().unwrap()),
            "pattern" => value.as_str().is_none_or(|text| match want.as_str().unwrap() {
                r"\S" => !text.trim().is_empty(),
                r"^ *\d+ *\.\.=? *\d+ *$" => text.split_once("..").is_some_and(|(from, to)| {
                    let number = |text: &str| text.trim_matches(' ').parse::<u64>().is_ok();
                    number(from) && number(to.strip_prefix('=').unwrap_or(to))
                }),
                other => panic!("pattern {other}"),
            }),
            other => panic!("the schema has a rule that this test does not know: {other}"),
        };
    }
    assert_eq!(known, rules.len());
    all
}

fn schema() -> Value {
    serde_json::from_str(&done(&run(&["batch", "--schema"])).stdout).unwrap()
}

fn valid(schema: &Value, text: &str) -> bool {
    fits(schema, schema, &toml::from_str::<Value>(text).unwrap())
}

#[test]
fn the_schema_and_the_program_agree() {
    let schema = schema();
    let studio = Studio::new("");
    let stylized = "command = 'stylize'\ncontent = 'photos'\nstyle = 'styles/x.png'\n";
    let generated = "command = 'generate'\nprompt = 'x'\n";
    let good = [
        format!("[[job]]\n{stylized}"),
        format!("[[job]]\n{generated}"),
        format!("output = 'o'\n[defaults]\nstrength = 0.5\nfile = '{{index}}.jpg'\n[[job]]\nname = 'n'\n{stylized}preserve-color = 'coral'\nsize = 64\n"),
        format!("[[job]]\n{stylized}wildcards = 'zip'\ngrid = ['seed']\n[job.matrix]\nseed = '0..4'\nstrength = [0.5, 1]\n"),
        format!("[[job]]\n{generated}[job.zip]\nnegative = ['a', 'b']\nseed = [4, 5]\n[job.matrix]\nsteps = ['1..=3', 9]\n"),
        "[defaults]\ncommand = 'stylize'\nstyle = ['styles/x.png', 'styles/y.png:2']\n[[job]]\ncontent = ['photos/a.png']\n".to_owned(),
        "[[job]]\ncommand = 'stylize'\ncontent = 'photos'\n[job.matrix]\nstyle = [['styles/x.png', 'styles/y.png:0.5'], 'styles/y.png']\n".to_owned(),
        "[defaults]\ncommand = 'stylize'\ninit = 'noise'\nmethod = 'gatys'\n[[job]]\ncontent = 'photos'\nstyle = 'styles/x.png'\n".to_owned(),
    ];
    for text in good {
        studio.write("jobs.toml", &text);
        let run = studio.batch(&["--dry-run"]);
        assert_eq!(run.code, Some(0), "{text}: {}", run.stderr);
        assert!(valid(&schema, &text), "the schema refuses\n{text}");
    }
    let bad = [
        String::new(),
        "job = []\n".to_owned(),
        "[[job]]\n".to_owned(),
        format!("[[job]]\n{stylized}strenght = 1\n"),
        format!("[[job]]\n{stylized}structure = 'photos/a.png'\n"),
        format!("[[job]]\n{stylized}strength = '1'\n"),
        format!("[[job]]\n{stylized}strength = [1]\n"),
        format!("[[job]]\n{stylized}size = 1.5\n"),
        format!("[[job]]\n{stylized}size = -1\n"),
        format!("[[job]]\n{stylized}method = 'oil'\n"),
        format!("[[job]]\n{stylized}raw-losses = 1\n"),
        format!("[[job]]\n{stylized}output = 'x.png'\n"),
        format!("[[job]]\n{stylized}grid = []\n"),
        format!("[[job]]\n{stylized}grid = ['a', 'b', 'c']\n"),
        format!("[[job]]\n{stylized}wildcards = 'some'\n"),
        format!("[[job]]\n{stylized}name = ' '\n"),
        format!("[[job]]\n{stylized}[job.matrix]\nseed = 3\n"),
        format!("[[job]]\n{stylized}[job.matrix]\nseed = '3'\n"),
        format!("[[job]]\n{stylized}[job.matrix]\nstrength = ['0..1']\n"),
        format!("[[job]]\n{stylized}[job.matrix]\nseed = [[1]]\n"),
        format!("[[job]]\n{stylized}[job.zip]\nfile = ['a.png']\n"),
        format!("[[job]]\n{generated}content = 'photos'\n"),
        format!("[[job]]\n{generated}[job.matrix]\ncount = [1]\n"),
        format!("[defaults]\nmatrix = {{ seed = [1] }}\n[[job]]\n{generated}"),
        format!("[defaults]\ninit = 3\n[[job]]\n{generated}"),
        format!("other = 1\n[[job]]\n{generated}"),
        format!("output = ''\n[[job]]\n{generated}"),
    ];
    for text in bad {
        studio.write("jobs.toml", &text);
        let run = studio.batch(&["--dry-run"]);
        assert_eq!(run.code, Some(2), "{text}: {}", run.stderr);
        assert!(!valid(&schema, &text), "the schema takes\n{text}");
    }
    // What an editor shows is what the help says.
    let help = &schema["definitions"]["stylize"]["properties"]["strength"]["description"];
    assert!(help.as_str().unwrap().starts_with("How much of the style"), "{help}");
    assert!(
        schema["definitions"]["generate"]["properties"]["steps"]["description"]
            .as_str()
            .unwrap()
            .contains("[default: ")
    );
}

#[test]
fn the_published_job_files_are_valid() {
    let schema = schema();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = root.join("examples/jobs.toml");
    assert!(valid(&schema, &std::fs::read_to_string(&example).unwrap()));
    // It works on a clone.
    let place = Place::new();
    let run = run(&["batch", example.to_str().unwrap(), "-o", &place.text("out"), "--dry-run", "--json"]);
    assert!(done(&run).stdout.lines().count() > 3);
    assert!(!place.path("out").exists());

    let docs = std::fs::read_to_string(root.join("docs/batch.md")).unwrap();
    let blocks: Vec<_> = docs.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 5, "only {} job files", blocks.len());
    for block in blocks {
        assert!(valid(&schema, block), "the schema refuses\n{block}");
    }
}
