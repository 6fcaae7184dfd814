//! The report of a comparison: methods and settings on the same photos and paintings, in pictures and numbers.
//!
//! A [`Report`] is plain data. [`Report::write`] makes of it `report.html` (one file, no network, no framework),
//! `results.csv` and `results.jsonl` (a row per picture), `plane.svg` (content against style) and `sheet.png` (the contact
//! sheet). Everything in it may come from strangers, file names above all: what goes into a page is escaped here.
//! Must not paint or measure anything.

mod gallery;
mod page;
mod plane;
mod sheet;
pub mod statistics;
mod summary;
mod table;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use gallery::Gallery;
pub use plane::Plane;
pub use summary::{Cell, Summary, Time};

use crate::error::Result;
use crate::image::write;
use crate::metrics::{Absent, Metric};
use crate::progress::{OnProgress, Progress, Stage};

/// The file of the page.
pub const PAGE: &str = "report.html";
/// The file of the rows, for spreadsheets.
pub const CSV: &str = "results.csv";
/// The file of the rows, for programs: one JSON object a line.
pub const JSONL: &str = "results.jsonl";
/// The file of the plane.
pub const PLANE: &str = "plane.svg";
/// The file of the contact sheet.
pub const SHEET: &str = "sheet.png";

/// The longest side that photos and paintings are shown at.
const LARGEST: u32 = 512;

/// A comparison: everything that goes into its report.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// What it is called.
    pub title: String,
    /// Program, machine, day: what and what of it, in the order to be told.
    pub facts: Vec<(String, String)>,
    /// The photos.
    pub contents: Vec<Source>,
    /// The paintings.
    pub styles: Vec<Source>,
    /// What they were painted by, the anchors first.
    pub variants: Vec<Variant>,
    /// What was measured.
    pub metrics: Vec<Metric>,
    /// What was measured of all pictures of a variant together.
    pub set_metrics: Vec<Metric>,
    /// What could not be.
    pub absent: Vec<Absent>,
    /// What must hold of every measurement.
    pub gates: Vec<Gate>,
    /// The pictures, in the order of contents, styles and variants.
    pub rows: Vec<Row>,
}

/// A photo or a painting that went in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Source {
    /// What it is called: its file's name without the ending.
    pub name: String,
    /// The path as it was given.
    pub path: String,
    /// SHA-256 of the file, in hex; empty where it could not be read.
    pub sha256: String,
    /// The file.
    #[serde(skip)]
    pub file: PathBuf,
}

/// A method with its settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Variant {
    /// The name of the method: the same for all settings of it.
    pub method: String,
    /// What was varied, by the flag's name; empty where nothing was.
    pub settings: Map<String, Value>,
    /// Whether it is no method but an end to measure by: the photo as it is, or the painting as it is.
    pub anchor: Option<Anchor>,
    /// How long its nets took to load, in seconds.
    pub load_seconds: Option<f64>,
    /// The metrics of all its pictures together, in the order of [`Report::set_metrics`].
    pub sets: Vec<Option<f64>>,
}

/// The two ends between which methods lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    /// The photo, not painted at all: all of the content, none of the style.
    Identity,
    /// The painting itself: all of the style, none of the content.
    Copy,
}

/// One picture with what is known of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    /// The photo, by its place in [`Report::contents`].
    pub content: usize,
    /// The painting, by its place in [`Report::styles`].
    pub style: usize,
    /// The variant, by its place in [`Report::variants`].
    pub variant: usize,
    /// The picture's file, from the folder of the report; `None` for anchors and where it failed.
    pub picture: Option<String>,
    /// What was found out about it.
    #[serde(flatten)]
    pub found: Found,
    /// How it was made, in full; null for anchors.
    pub recipe: Value,
    /// The metrics, in the order of [`Report::metrics`].
    pub values: Vec<Option<f64>>,
    /// Why there is no picture, or why it could not be measured.
    pub error: Option<String>,
}

/// What painting a picture told about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Found {
    /// SHA-256 of the picture's file, in hex.
    pub sha256: String,
    /// Width and height.
    pub size: (u32, u32),
    /// How long painting took, without loading nets and reading the style.
    pub seconds: Option<f64>,
    /// How long reading the style took; with the first picture of a style alone, since it serves the others.
    pub style_seconds: Option<f64>,
    /// The most memory of the program while it painted, in bytes.
    pub peak_bytes: Option<u64>,
    /// What the method warned of.
    pub warnings: Vec<String>,
}

/// Something that holds of every measurement if it can be trusted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    /// What holds.
    pub claim: String,
    /// What it was seen by: metrics with the values they must have.
    pub by: Vec<String>,
    /// What was found instead; `None` where it holds.
    pub broken: Option<String>,
}

impl Variant {
    /// What it is called: the method and what was varied of it.
    pub fn name(&self) -> String {
        let setting = |(flag, value): (&String, &Value)| format!(" {flag}={}", plain(value));
        self.method.chars().chain(self.settings.iter().map(setting).collect::<String>().chars()).collect()
    }
}

impl Report {
    /// Writes the report's files into a folder that holds its pictures.
    ///
    /// # Errors
    /// When a file cannot be written, or the work is stopped.
    pub fn write(&self, folder: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
        let summary = Summary::of(self);
        let mut tell = |done: u64, file: &str| {
            on_progress(&Progress { stage: Stage::Report, done, total: 5, label: file.to_owned() })
        };
        tell(0, JSONL)?;
        write::bytes(folder.join(JSONL), table::jsonl(self)?.as_bytes())?;
        tell(1, CSV)?;
        write::bytes(folder.join(CSV), table::csv(self).as_bytes())?;
        tell(2, PLANE)?;
        write::bytes(folder.join(PLANE), summary.plane.svg(self).as_bytes())?;
        tell(3, SHEET)?;
        let gallery = Gallery::open(self, folder, LARGEST);
        write::png(folder.join(SHEET), &sheet::draw(self, &gallery), &[])?;
        tell(4, PAGE)?;
        write::bytes(folder.join(PAGE), page::html(self, &summary, &gallery)?.as_bytes())?;
        tell(5, PAGE)
    }

    /// The row of a photo, a painting and a variant.
    pub fn row(&self, content: usize, style: usize, variant: usize) -> Option<&Row> {
        self.rows.iter().find(|row| (row.content, row.style, row.variant) == (content, style, variant))
    }

    /// The methods, in the order of the variants; anchors are none.
    pub fn methods(&self) -> Vec<&str> {
        let mut methods: Vec<&str> = Vec::new();
        for variant in self.variants.iter().filter(|variant| variant.anchor.is_none()) {
            if !methods.contains(&variant.method.as_str()) {
                methods.push(&variant.method);
            }
        }
        methods
    }

    /// What could not be painted or measured.
    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.error.is_some())
    }
}

/// A setting as a person writes it: without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        // 1 and not 1.0, as JavaScript has it.
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, |it| it.to_string()),
        other => other.to_string(),
    }
}
