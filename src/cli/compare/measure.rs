//! Measures every picture against its photo and its painting, and what stands at the two ends: the photo and the painting
//! themselves.

use super::log::Log;
use super::plan::hash_of;
use crate::cli::Printer;
use ::image::RgbImage;
use impasto::image::{read, resize};
use impasto::metrics::{Look, SetFeatures, Suite, check_gates};
use impasto::pipeline::stylize::canvas;
use impasto::progress::{Progress, Stage};
use impasto::report::{Anchor, Gate, Report, Row};
use impasto::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// How much the looks at photos may keep in memory, in pixels.
const KEPT: u64 = 8 << 20;

/// What the gates say of the two ends.
const KEPT_ALL: &str = "the photo itself has kept everything";
const TAKEN_ALL: &str = "the painting itself has taken on everything";

/// What measures, and in which words its answers are noted.
pub(super) struct Judge<'a> {
    /// The metrics.
    pub(super) suite: &'a Suite,
    /// What stands for all of the nets: values measured with others are not taken over.
    pub(super) fingerprint: String,
    /// The long side of pictures.
    pub(super) size: u32,
    /// The words that were asked for, by variant.
    pub(super) prompts: HashMap<usize, String>,
}

/// Fills in the values of a report's rows, its sets and its gates. Rows are sorted by photo, painting and variant already.
pub(super) fn measure(
    report: &mut Report,
    judge: &Judge<'_>,
    folder: &Path,
    log: &mut Log,
    printer: &Printer,
) -> Result<()> {
    let mut bar = printer.bar();
    let (mut done, total) = (0, report.rows.len() as u64);
    let styles: Vec<Option<RgbImage>> =
        report.styles.iter().map(|style| read::open(&style.file).and_then(|it| scaled(&it, judge.size)).ok()).collect();
    let pixels = u64::from(judge.size).pow(2).max(1);
    let at_once = usize::try_from(KEPT / pixels).unwrap_or(1).max(1);
    let contents: Vec<usize> = (0..report.contents.len()).collect();
    let mut sets = Sets::new(report.variants.len());
    for chunk in contents.chunks(at_once) {
        let photos: Vec<Photo> = chunk.iter().map(|&content| Photo::open(report, content, judge.size)).collect();
        let looks: Vec<_> = photos.iter().map(|photo| photo.looks(judge.suite)).collect();
        for (style, painting) in styles.iter().enumerate() {
            let style_look = painting.as_ref().map(|painting| judge.suite.look(painting));
            for (photo, looks) in photos.iter().zip(&looks) {
                let pair = Pair { photo, looks, style: painting.as_ref().zip(style_look.as_ref()) };
                for at in 0..report.rows.len() {
                    if (report.rows[at].content, report.rows[at].style) != (photo.content, style) {
                        continue;
                    }
                    let label = String::new();
                    bar.report(&Progress { stage: Stage::Measure, done, total, label })?;
                    done += 1;
                    match row(report, at, judge, &pair, folder, log) {
                        Ok(values) => report.rows[at].values = values,
                        Err(Error::Interrupted) => return Err(Error::Interrupted),
                        Err(error) => report.rows[at].error = Some(format!("it could not be measured: {error}")),
                    }
                    sets.take(report, at, judge.suite, folder);
                }
            }
        }
    }
    bar.clear();
    sets.fill(report, judge.suite, &styles);
    report.gates = gates(report, judge, &styles);
    Ok(())
}

/// A photo at every size that it was painted at.
struct Photo {
    content: usize,
    sizes: Vec<RgbImage>,
}

impl Photo {
    fn open(report: &Report, content: usize, side: u32) -> Self {
        let source = &report.contents[content];
        let Ok(photo) = read::open(&source.file) else { return Self { content, sizes: Vec::new() } };
        // The first size is that of the ends: the one that most methods paint at.
        let mut wanted = vec![canvas::with_long_side(photo.dimensions(), side)];
        for row in report.rows.iter().filter(|row| row.content == content && row.picture.is_some()) {
            if !wanted.contains(&row.found.size) {
                wanted.push(row.found.size);
            }
        }
        Self { content, sizes: wanted.into_iter().filter_map(|size| canvas::resized(&photo, size).ok()).collect() }
    }

    fn looks<'a>(&'a self, suite: &Suite) -> Vec<Look<'a>> {
        self.sizes.iter().map(|photo| suite.look(photo)).collect()
    }
}

struct Pair<'a> {
    photo: &'a Photo,
    looks: &'a [Look<'a>],
    style: Option<(&'a RgbImage, &'a Look<'a>)>,
}

impl Pair<'_> {
    fn photo(&self, size: (u32, u32)) -> Option<&Look<'_>> {
        self.photo.sizes.iter().zip(self.looks).find(|(photo, _)| photo.dimensions() == size).map(|(_, look)| look)
    }
}

/// The values of a row, from the log where they stand there.
fn row(
    report: &Report,
    at: usize,
    judge: &Judge<'_>,
    pair: &Pair<'_>,
    folder: &Path,
    log: &mut Log,
) -> Result<Vec<Option<f64>>> {
    let row = &report.rows[at];
    let anchor = report.variants[row.variant].anchor;
    let nothing = || vec![None; report.metrics.len()];
    let subject = match (anchor, &row.picture) {
        (Some(anchor), _) => format!("{anchor:?}"),
        (None, Some(_)) => row.found.sha256.clone(),
        (None, None) => return Ok(nothing()),
    };
    let (content, style) = (&report.contents[row.content].sha256, &report.styles[row.style].sha256);
    let prompt = judge.prompts.get(&row.variant).map(String::as_str);
    let key = hash_of(&format!(
        "{subject} {content} {style} {} {} {}",
        judge.fingerprint,
        judge.size,
        prompt.unwrap_or_default()
    ));
    let in_order = |values: &dyn Fn(&str) -> Option<f64>| report.metrics.iter().map(|it| values(it.name)).collect();
    if let Some(values) = log.measured(&key) {
        return Ok(in_order(&|name| values.get(name).copied()));
    }
    let suite = judge.suite;
    let style = pair.style.map(|(_, look)| look);
    let values = match anchor {
        Some(Anchor::Identity) => match pair.looks.first() {
            Some(look) => suite.judge(Some(look), style, look, None)?,
            None => return Ok(nothing()),
        },
        Some(Anchor::Copy) => {
            let (Some(photo), Some(look)) = (pair.photo.sizes.first(), pair.looks.first()) else {
                return Ok(nothing());
            };
            let Some((picture, style)) = pair.style else { return Ok(nothing()) };
            // As content it has to have the photo's size; as style it is the painting as it is.
            let copy = resize::lanczos(picture, photo.width(), photo.height())?;
            let mut values = suite.judge(Some(look), None, &suite.look(&copy), None)?;
            values.extend(suite.judge(None, Some(style), style, None)?);
            values
        }
        None => {
            let painted = read::open(folder.join(row.picture.as_deref().unwrap_or_default()))?;
            let photo = pair.photo(painted.dimensions());
            suite.judge(photo, style, &suite.look(&painted), prompt)?
        }
    };
    log.note_measured(&key, &values)?;
    Ok(in_order(&|name| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)))
}

/// A painting at the scale of the pictures: strokes are compared with strokes of their size.
fn scaled(style: &RgbImage, side: u32) -> Result<RgbImage> {
    canvas::resized(style, canvas::with_long_side(style.dimensions(), side))
}

/// What all pictures of a variant are together.
struct Sets {
    painted: Vec<Vec<SetFeatures>>,
    styles: Vec<Vec<usize>>,
    lpips: Vec<Vec<f64>>,
}

impl Sets {
    fn new(variants: usize) -> Self {
        Self {
            painted: vec![Vec::new(); variants],
            styles: vec![Vec::new(); variants],
            lpips: vec![Vec::new(); variants],
        }
    }

    fn take(&mut self, report: &Report, at: usize, suite: &Suite, folder: &Path) {
        let row: &Row = &report.rows[at];
        let Some(picture) = row.picture.as_ref().filter(|_| !suite.set_metrics().is_empty()) else { return };
        let Ok(features) = read::open(folder.join(picture)).and_then(|picture| suite.set_features(&picture)) else {
            return;
        };
        self.painted[row.variant].push(features);
        if !self.styles[row.variant].contains(&row.style) {
            self.styles[row.variant].push(row.style);
        }
        let lpips = report.metrics.iter().position(|metric| metric.name == "lpips-alex");
        self.lpips[row.variant].extend(lpips.and_then(|at| row.values.get(at).copied().flatten()));
    }

    fn fill(self, report: &mut Report, suite: &Suite, styles: &[Option<RgbImage>]) {
        report.set_metrics = suite.set_metrics().to_vec();
        if report.set_metrics.is_empty() {
            return;
        }
        let of = |style: &Option<RgbImage>| style.as_ref().and_then(|style| suite.set_features(style).ok());
        let features: Vec<_> = styles.iter().map(of).collect();
        for (at, variant) in report.variants.iter_mut().enumerate() {
            let paintings: Vec<_> = self.styles[at].iter().filter_map(|&style| features[style].clone()).collect();
            let lpips = &self.lpips[at];
            let mean = (!lpips.is_empty()).then(|| lpips.iter().sum::<f64>() / lpips.len() as f64);
            let values = suite.measure_set(&self.painted[at], &paintings, mean).unwrap_or_default();
            let value = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            variant.sets = report.set_metrics.iter().map(|metric| value(metric.name)).collect();
        }
    }
}

/// Checks the gates on as many pairs as hold every photo and every painting once.
fn gates(report: &Report, judge: &Judge<'_>, styles: &[Option<RgbImage>]) -> Vec<Gate> {
    let photos: Vec<RgbImage> =
        report.contents.iter().filter_map(|source| scaled(&read::open(&source.file).ok()?, judge.size).ok()).collect();
    let styles: Vec<&RgbImage> = styles.iter().flatten().collect();
    if photos.is_empty() || styles.is_empty() {
        return Vec::new();
    }
    let title = |name: &str| {
        let metric = judge.suite.metrics().iter().find(|metric| metric.name == name);
        metric.map_or_else(|| name.to_owned(), |metric| metric.title.to_owned())
    };
    let mut gates: Vec<Gate> = Vec::new();
    for at in 0..photos.len().max(styles.len()) {
        match check_gates(judge.suite, &photos[at % photos.len()], styles[at % styles.len()]) {
            Ok(found) if gates.is_empty() => {
                for (picture, claim) in [("identity", KEPT_ALL), ("copy-style", TAKEN_ALL)] {
                    let held = found.iter().filter(|gate| gate.picture == picture);
                    let by = held.map(|gate| format!("{} {}", title(gate.metric), gate.expected)).collect();
                    gates.push(Gate { claim: claim.to_owned(), by, broken: None });
                }
            }
            Ok(_) => {}
            Err(error) => {
                let claim = format!("{KEPT_ALL}, {TAKEN_ALL}");
                return vec![Gate { claim, by: Vec::new(), broken: Some(error.to_string()) }];
            }
        }
    }
    gates
}
