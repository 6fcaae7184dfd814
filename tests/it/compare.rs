//! `impasto compare` as a user meets it: what is painted and painted again, what the report holds, what is refused; and its
//! sums against NumPy's.

use super::program::{Place, Run, picture, program, refused, run};
use ::image::{Rgb, RgbImage};
use impasto::metrics::{Metric, content, ssim, style};
use impasto::report::{Anchor, Report, Row, Source, Summary, Variant};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Two photos, two paintings, and a folder for a report.
struct Bench(Place);

impl Bench {
    fn new() -> Self {
        let place = Place::new();
        for folder in ["photos", "paintings"] {
            std::fs::create_dir(place.path(folder)).unwrap();
        }
        picture(&place.path("photos/town.png"), 96, 64);
        picture(&place.path("photos/hill.png"), 60, 90);
        for (name, warm) in [("dusk", [240, 140, 40]), ("sea", [20, 90, 200])] {
            let stripe = |x: u32, y: u32| if ((x + 2 * y) / 6).is_multiple_of(2) { warm } else { [230, 225, 200] };
            let painting = RgbImage::from_fn(80, 72, |x, y| Rgb(stripe(x, y)));
            painting.save(place.path(&format!("paintings/{name}.png"))).unwrap();
        }
        Self(place)
    }

    /// Compares with the bundled net and what a test adds.
    fn compare(&self, more: &[&str]) -> Run {
        let (photos, paintings, out) = (self.0.text("photos"), self.0.text("paintings"), self.0.text("report"));
        let base = ["compare", "--content", &photos, "--style", &paintings, "--size", "64", "-o", &out];
        run(&[&base[..], if more.contains(&"--methods") { &[] } else { &["--methods", "adain"] }, more].concat())
    }

    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.path("report").join(file)).unwrap()
    }

    fn rows(&self) -> Vec<Value> {
        self.text("results.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The data of the page.
    fn page(&self) -> Value {
        let page = self.text("report.html");
        let (_, data) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
    }

    /// When each picture was last written.
    fn written(&self) -> BTreeMap<String, std::time::SystemTime> {
        let mut found = BTreeMap::new();
        for row in self.rows() {
            if let Some(picture) = row["picture"].as_str() {
                let file = self.0.path("report").join(picture);
                found.insert(picture.to_owned(), file.metadata().unwrap().modified().unwrap());
            }
        }
        found
    }
}

fn done(run: &Run) {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn a_report_holds_every_picture_and_the_same_numbers_everywhere() {
    let bench = Bench::new();
    let first = bench.compare(&["--sweep", "strength=0.5,1"]);
    done(&first);
    assert_eq!(first.stdout.trim(), bench.0.path("report").join("report.html").to_str().unwrap());
    let rows = bench.rows();
    // Two photos, two paintings; two anchors and two settings.
    assert_eq!(rows.len(), 16);
    let page = bench.page();
    assert_eq!(page["report"]["rows"].as_array().unwrap().len(), 16);
    let metrics: Vec<&str> =
        page["report"]["metrics"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert!(metrics.contains(&"ssim") && metrics.contains(&"histogram-distance"), "{metrics:?}");
    for (at, row) in rows.iter().enumerate() {
        for (place, metric) in metrics.iter().enumerate() {
            assert_eq!(row["metrics"][metric], page["report"]["rows"][at]["values"][place], "{metric} of row {at}");
        }
        match row["anchor"].as_str() {
            Some("identity") => assert_eq!(row["metrics"]["ssim"], 1.0),
            Some("copy") => assert_eq!(row["metrics"]["histogram-distance"], 0.0),
            _ => {
                let file = bench.0.path("report").join(row["picture"].as_str().unwrap());
                assert_eq!(row["sha256"], impasto::pipeline::recipe::Input::of(&file).unwrap().sha256);
                assert_eq!(row["recipe"]["settings"]["strength"], row["varied"]["strength"].as_f64().unwrap());
                assert!(row["seconds"].as_f64().unwrap() > 0.0);
                let size = ::image::image_dimensions(&file).unwrap();
                assert_eq!((row["size"].clone(), size.0.max(size.1)), (json!([size.0, size.1]), 64));
                let url = page["pictures"]["rows"][at].as_str().unwrap();
                assert!(url.starts_with("data:image/jpeg;base64,/9j/"), "{}", &url[..40]);
            }
        }
    }
    // The CSV: as many rows, every metric to the last digit.
    let csv = bench.text("results.csv");
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 17);
    for metric in &metrics {
        let column = lines[0].iter().position(|name| name == metric).unwrap();
        for (row, line) in rows.iter().zip(&lines[1..]) {
            // Reading JSON back may lose the last bit, reading the CSV does not.
            let cell = line[column].parse().map_or(Value::Null, |value: f64| json!(value));
            close(&row["metrics"][metric], &cell, metric);
        }
    }
    assert!(lines[0].contains(&"setting.strength"));
    assert!(bench.text("plane.svg").contains("</svg>"));
    assert!(::image::open(bench.0.path("report/sheet.png")).unwrap().width() > 500);
    assert!(page["report"]["gates"].as_array().unwrap().iter().all(|gate| gate["broken"].is_null()));
    // What was not measured is said to be so, with what to do.
    let absent = page["report"]["absent"].as_array().unwrap();
    assert!(
        absent.iter().any(|it| it["metric"]["name"] == "lpips-alex" && it["how"].as_str().unwrap().contains("--lpips"))
    );

    // The page needs nothing from outside, and nothing in it can.
    let html = bench.text("report.html");
    assert!(html.contains("default-src 'none'"));
    let (head, rest) = html.split_once("<script type=\"application/json\"").unwrap();
    let script = rest.split_once("</script>").unwrap().1;
    for outside in ["src=\"http", "href=\"http", "url(", "@import", "fetch("] {
        assert!(!head.contains(outside) && !script.contains(outside), "{outside}");
    }
}

#[test]
fn what_is_there_is_not_painted_again_and_what_changed_is() {
    let bench = Bench::new();
    done(&bench.compare(&[]));
    let (before, rows) = (bench.written(), bench.text("results.jsonl"));
    let again = bench.compare(&[]);
    done(&again);
    assert!(again.stderr.contains("4 of 4 pictures were there already"), "{}", again.stderr);
    assert_eq!(bench.written(), before);
    assert_eq!(bench.text("results.jsonl"), rows);

    // One picture is gone, one was painted over: both are painted again, to the same bytes.
    let names: Vec<&String> = before.keys().collect();
    let file = |at: usize| bench.0.path("report").join(names[at]);
    let bytes = std::fs::read(file(0)).unwrap();
    std::fs::remove_file(file(0)).unwrap();
    picture(&file(1), 20, 20);
    done(&bench.compare(&[]));
    assert_eq!(std::fs::read(file(0)).unwrap(), bytes);
    let after = bench.written();
    let same: Vec<bool> = before.iter().map(|(name, time)| after[name] == *time).collect();
    assert_eq!(same, [false, false, true, true]);
    // A log that was cut off, and a log that is gone: the pictures are still theirs.
    let log = bench.0.path("report/.compare.jsonl");
    let text = std::fs::read(&log).unwrap();
    std::fs::write(&log, &text[..text.len() - 30]).unwrap();
    done(&bench.compare(&[]));
    assert_eq!(bench.written(), after);

    // Another size, another seed, another photo under the same name.
    for (changed, more) in [(4, &["--size", "48"][..]), (4, &["--seed", "3", "--size", "48"])] {
        let before = bench.written();
        std::thread::sleep(Duration::from_millis(20));
        let (photos, paintings, out) = (bench.0.text("photos"), bench.0.text("paintings"), bench.0.text("report"));
        let base = ["compare", "--content", &photos, "--style", &paintings, "--methods", "adain", "-o", &out];
        done(&run(&[&base[..], more].concat()));
        let after = bench.written();
        assert_eq!(before.iter().filter(|(name, time)| after[*name] != **time).count(), changed, "{more:?}");
    }
}

#[test]
fn names_that_would_break_a_page_do_not() {
    let bench = Bench::new();
    let names = ["</script><img src=x onerror=alert(1)>", "a\"b'c,d;e", "{{data}} ${1} \\u003c", "雪とネコ", "=1+1"];
    for name in names.map(|name| name.replace('/', "\u{2215}")) {
        picture(&bench.0.path(&format!("photos/{name}.png")), 40, 40);
    }
    done(&bench.compare(&["--title", "</script><b>me & you</b> {{script}}"]));
    let html = bench.text("report.html");
    assert!(html.contains("<title>&lt;/script&gt;&lt;b&gt;me &amp; you&lt;/b&gt; {{script}}</title>"));
    assert!(!html.contains("<img src=x") && html.contains("\\u003cimg src=x"));
    let page = bench.page();
    let sources: Vec<&str> =
        page["report"]["contents"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(sources.len(), 7);
    assert!(sources.contains(&"雪とネコ") && sources.contains(&"a\"b'c,d;e"), "{sources:?}");
    for row in bench.rows() {
        let Some(picture) = row["picture"].as_str() else { continue };
        assert!(picture.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c)), "{picture}");
    }
    let csv = bench.text("results.csv");
    assert!(csv.contains("a\"\"b'c,d;e"), "quotes are doubled");
    // One element of data, one of script: nothing has ended them.
    assert_eq!(html.matches("<script").count(), 2);
    assert_eq!(html.matches("</script>").count(), 2);
}

#[test]
fn a_broken_picture_does_not_stop_the_others() {
    let bench = Bench::new();
    std::fs::write(bench.0.path("photos/middle.png"), b"\x89PNG\r\n\x1a\nnothing").unwrap();
    let compared = bench.compare(&[]);
    assert_eq!(compared.code, Some(1), "{}", compared.stderr);
    assert!(compared.stderr.contains("middle.png") && compared.stderr.contains("2 of 6"), "{}", compared.stderr);
    let rows = bench.rows();
    assert_eq!(rows.iter().filter(|row| row["picture"].is_string()).count(), 4);
    let failed: Vec<_> = rows.iter().filter(|row| row["error"].is_string()).collect();
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|row| row["error"].as_str().unwrap().contains("middle.png") && row["picture"].is_null()));
    // Mended, only that one is painted.
    picture(&bench.0.path("photos/middle.png"), 50, 40);
    let mended = bench.compare(&[]);
    done(&mended);
    assert!(mended.stderr.contains("4 of 6 pictures were there already"), "{}", mended.stderr);
}

#[test]
fn two_at_once_in_one_folder_are_one_too_many() {
    let bench = Bench::new();
    std::fs::create_dir(bench.0.path("report")).unwrap();
    let log = bench.0.path("report/.compare.jsonl");
    let held = std::fs::File::create(&log).unwrap();
    held.lock().unwrap();
    let second = bench.compare(&[]);
    refused(&second, 1, "another `impasto compare` is at work");
    drop(held);
    done(&bench.compare(&[]));

    // A process that is killed leaves no lock, and what it painted is kept.
    let (photos, paintings, out) = (bench.0.text("photos"), bench.0.text("paintings"), bench.0.text("report"));
    let mut command = program();
    command.args(["compare", "--content", &photos, "--style", &paintings, "--methods", "adain", "--size", "160"]);
    command.args(["--sweep", "strength=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1", "-o", &out]);
    let mut child = command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !bench.0.path("report/pictures/adain-strength-0.2").is_dir() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let more = ["--size", "160", "--sweep", "strength=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"];
    let base = ["compare", "--content", &photos, "--style", &paintings, "--methods", "adain", "-o", &out];
    let resumed = run(&[&base[..], &more].concat());
    done(&resumed);
    assert!(resumed.stderr.contains("of 40 pictures were there already"), "{}", resumed.stderr);
    assert_eq!(bench.rows().iter().filter(|row| row["picture"].is_string()).count(), 40);
    let left: Vec<_> = walk(&bench.0.path("report")).into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn walk(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(walk(&path));
        } else {
            names.push(path.to_str().unwrap().to_owned());
        }
    }
    names
}

#[test]
fn wrong_usage_is_told_before_anything_is_written() {
    let bench = Bench::new();
    std::fs::create_dir(bench.0.path("empty")).unwrap();
    std::fs::write(bench.0.path("results.csv"), "mine").unwrap();
    let (photos, paintings, out, empty) =
        (bench.0.text("photos"), bench.0.text("paintings"), bench.0.text("report"), bench.0.text("empty"));
    let there = bench.0.text("");
    let whole = |content: &str, style: &str, out: &str, more: &[&str]| {
        run(&[&["compare", "--content", content, "--style", style, "-o", out], more].concat())
    };
    let adain = &["--methods", "adain"][..];
    for (run, code, subject) in [
        (whole(&empty, &paintings, &out, adain), 1, "empty"),
        (whole("nowhere", &paintings, &out, adain), 1, "nowhere"),
        (whole(&photos, &paintings, &photos, adain), 2, "--output"),
        (whole(&photos, &paintings, &there, adain), 2, "results.csv"),
        (whole(&photos, &paintings, "no/such/folder", adain), 2, "--output"),
        (whole(&photos, &paintings, &out, &["--methods", "cubism"]), 2, "cubism"),
        (whole(&photos, &paintings, &out, &["--methods", "fast:dawn"]), 2, "fast:dawn"),
        (whole(&photos, &paintings, &out, &["--methods", "adain:gone.safetensors"]), 1, "gone.safetensors"),
        (whole(&photos, &paintings, &out, &["--methods", "adain", "--sweep", "strength=2"]), 2, "--strength"),
        (whole(&photos, &paintings, &out, &["--methods", "adain", "--sweep", "strength=x"]), 2, "--strength"),
        (whole(&photos, &paintings, &out, &["--methods", "adain", "--set", "gatys.iterations=5"]), 2, "gatys"),
        (whole(&photos, &paintings, &out, &["--methods", "adain", "--backbone", "gone.pth"]), 2, "--backbone"),
    ] {
        refused(&run, code, subject);
    }
    assert!(!bench.0.path("report").exists());
    assert!(!bench.0.path("photos/pictures").exists());
}

#[test]
fn a_net_for_one_style_competes_on_its_own_painting_alone() {
    let bench = Bench::new();
    let net = super::fixture("stylize").join("fast.safetensors");
    let net = net.to_str().unwrap();
    let compared = bench.compare(&["--methods", &format!("adain,fast:{net}=sea")]);
    done(&compared);
    let rows = bench.rows();
    let fast: Vec<_> = rows.iter().filter(|row| row["method"] == "fast:fast").collect();
    assert_eq!(fast.len(), 2);
    assert!(fast.iter().all(|row| row["style"]["name"] == "sea" && row["picture"].is_string()));
    assert_eq!(rows.iter().filter(|row| row["method"] == "adain").count(), 4);
    // Held against each other on what both have painted.
    let page = bench.page();
    let wins = &page["summary"]["wins"][0];
    let (one, other) = (wins[2][3].as_f64().unwrap(), wins[3][2].as_f64().unwrap());
    assert!((one + other - 1.0).abs() < 1e-12);
    assert_eq!(page["summary"]["cells"][3][0]["count"], 2);
}

/// Sums against NumPy's and torch's: see `tests/reference/report.py`.
#[test]
fn medians_intervals_and_win_rates_are_the_reference_s() {
    let text = std::fs::read_to_string(super::fixture("report.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let metric = |name: &Value| -> Metric {
        [ssim::METRIC, content::METRIC, style::METRIC].into_iter().find(|metric| name == metric.name).unwrap()
    };
    let list = |name: &str| fixture[name].as_array().unwrap();
    let source = |name: String| Source { path: name.clone(), file: name.clone().into(), name, sha256: String::new() };
    let count = |name: &str| 0..fixture[name].as_u64().unwrap();
    let variant = |it: &Value| Variant {
        method: it[0].as_str().unwrap().to_owned(),
        settings: if it[1].is_null() { Map::new() } else { Map::from_iter([("strength".to_owned(), it[1].clone())]) },
        anchor: match it[0].as_str() {
            Some("identity") => Some(Anchor::Identity),
            Some("copy") => Some(Anchor::Copy),
            _ => None,
        },
        load_seconds: None,
        sets: Vec::new(),
    };
    let place = |row: &Value, name: &str| row[name].as_u64().unwrap() as usize;
    let row = |it: &Value| Row {
        content: place(it, "content"),
        style: place(it, "style"),
        variant: place(it, "variant"),
        values: it["values"].as_array().unwrap().iter().map(Value::as_f64).collect(),
        ..Row::default()
    };
    let report = Report {
        title: "t".into(),
        facts: Vec::new(),
        contents: count("contents").map(|at| source(format!("c{at}"))).collect(),
        styles: count("styles").map(|at| source(format!("s{at}"))).collect(),
        variants: list("variants").iter().map(variant).collect(),
        metrics: list("metrics").iter().map(metric).collect(),
        set_metrics: Vec::new(),
        absent: Vec::new(),
        gates: Vec::new(),
        rows: list("rows").iter().map(row).collect(),
    };
    let summary = serde_json::to_value(Summary::of(&report)).unwrap();
    close(&summary["cells"], &fixture["cells"], "cells");
    close(&summary["wins"], &fixture["wins"], "wins");
    let points: Vec<Value> = summary["plane"]["curves"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|curve| curve["points"].as_array().unwrap())
        .map(|point| json!({ "variant": point["variant"], "kept": point["kept"], "taken": point["taken"] }))
        .collect();
    close(&Value::Array(points), &fixture["plane"], "plane");
    assert_eq!(summary["plane"]["curves"][0]["joined"], true);
}

/// The same to rounding.
fn close(found: &Value, expected: &Value, place: &str) {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{place}");
            found.iter().zip(expected).enumerate().for_each(|(at, (a, b))| close(a, b, &format!("{place}[{at}]")));
        }
        (Value::Object(found), Value::Object(expected)) => {
            for (key, expected) in expected {
                close(&found[key], expected, &format!("{place}.{key}"));
            }
        }
        (Value::Number(found), Value::Number(expected)) => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((found - expected).abs() < 1e-12 * expected.abs().max(1e-3), "{place}: {found} for {expected}");
        }
        _ => assert_eq!(found, expected, "{place}"),
    }
}

#[test]
fn a_damaged_judge_fails_loudly() {
    let bench = Bench::new();
    let mut net = std::fs::read(super::fixture("stylize").join("vgg16.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(*net.first_chunk().unwrap()) as usize;
    // Weights that are no numbers.
    net[header..].fill(0xff);
    std::fs::write(bench.0.path("net.safetensors"), net).unwrap();
    let compared = bench.compare(&["--backbone", &bench.0.text("net.safetensors")]);
    assert_eq!(compared.code, Some(1), "{}", compared.stderr);
    assert!(compared.stderr.contains("content-distance of identity is NaN, it must be 0"), "{}", compared.stderr);
    // The report is there, and says so.
    let page = bench.page();
    assert!(page["report"]["gates"][0]["broken"].as_str().unwrap().contains("NaN"));
}
