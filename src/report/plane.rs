//! The plane of content against style: how much of the photo each variant keeps, how much of the painting it takes on.
//!
//! Every pair is measured by its own ends: the photo unpainted (all of the content, none of the style) and the painting itself
//! (all of the style, none of the content). That makes pairs comparable, and the ends the same two corners for all. A method
//! that does nothing sits at one of them, one that pastes the painting at the other; a better one lies farther up and right.
//! A method with several settings is a curve.

use std::fmt::Write;

use serde::Serialize;

use super::statistics::Spread;
use super::{Anchor, Report, plain};

/// What tells how much of the content is kept, the preferred metric first; then of the style. A distance by a network
/// where one is there, else what needs none.
const CONTENT: [&str; 3] = ["content-distance", "lpips-alex", "ssim"];
const STYLE: [&str; 3] = ["style-distance", "clip-style", "histogram-distance"];

/// Colours of methods (Okabe, Ito 2008: told apart by colour-blind eyes too), on light and on dark ground.
const COLOURS: [(&str, &str); 7] = [
    ("#0072b2", "#4aa8e0"),
    ("#c8540a", "#f08a4b"),
    ("#00845f", "#2fbf97"),
    ("#a8457f", "#dd8dbb"),
    ("#946a00", "#e3b341"),
    ("#3d6d8a", "#8cc4e6"),
    ("#5b5b5b", "#b9b9b9"),
];

/// Sizes of the drawing, in its own units.
const WIDTH: f64 = 480.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 38.0;
const HEIGHT: f64 = 392.0;
const LEGEND: f64 = 22.0;

/// The plane.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plane {
    /// The title of the metric to the right; empty where nothing can be drawn.
    pub content: String,
    /// The title of the metric upwards.
    pub style: String,
    /// A curve per method.
    pub curves: Vec<Curve>,
}

/// One method over its settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// The method.
    pub method: String,
    /// Whether one number was varied, so that neighbours can be joined.
    pub joined: bool,
    /// Its points, in the order of that number.
    pub points: Vec<Point>,
}

/// One variant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// The variant, by its place in the report.
    pub variant: usize,
    /// What was varied, for its label.
    pub label: String,
    /// How much of the photo's content is kept: 1 is the photo, 0 as little as the painting has of it.
    pub kept: Spread,
    /// How much of the painting's style is taken on: 1 is the painting, 0 as little as the photo has of it.
    pub taken: Spread,
}

impl Plane {
    /// The plane of a report's rows.
    pub fn of(report: &Report) -> Self {
        let find = |names: &[&str]| {
            let place = |name: &&str| report.metrics.iter().position(|metric| metric.name == *name);
            let measured = |at: &usize| report.rows.iter().any(|row| row.values.get(*at).copied().flatten().is_some());
            names.iter().filter_map(place).find(measured)
        };
        let (Some(content), Some(style)) = (find(&CONTENT), find(&STYLE)) else { return Self::default() };
        let curves = report.methods().into_iter().map(|method| curve(report, method, (content, style))).collect();
        Self {
            content: report.metrics[content].title.to_owned(),
            style: report.metrics[style].title.to_owned(),
            curves,
        }
    }

    /// The drawing, as a file by itself or within a page.
    pub(super) fn svg(&self, report: &Report) -> String {
        let lines = self.curves.iter().filter(|curve| !curve.points.is_empty()).count() as f64;
        let bottom = TOP + HEIGHT;
        let tall = bottom + 56.0 + (lines / 2.0).ceil() * LEGEND;
        let mut svg = String::new();
        let described = "Content kept against style taken on, a curve per method";
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plane\" viewBox=\"0 0 {WIDTH} {tall}\" role=\"img\" \
             aria-label=\"{described}\"><style>{}</style><rect class=\"paper\" width=\"{WIDTH}\" height=\"{tall}\"/>",
            style()
        );
        let frame = self.frame();
        frame.draw(&mut svg, self);
        for curve in &self.curves {
            let number = report.methods().iter().position(|method| *method == curve.method).unwrap_or(0);
            draw(&mut svg, &frame, curve, number, report);
        }
        let shown = self.curves.iter().filter(|curve| !curve.points.is_empty());
        for (place, curve) in shown.enumerate() {
            let number = report.methods().iter().position(|method| *method == curve.method).unwrap_or(0);
            let x = LEFT + (place % 2) as f64 * (WIDTH - LEFT) / 2.0;
            let y = bottom + 62.0 + (place / 2) as f64 * LEGEND;
            let _ = write!(svg, "<g class=\"m{}\">", number % COLOURS.len());
            marker(&mut svg, number, (x + 6.0, y - 5.0), 6.0);
            let name: String = curve.method.chars().take(24).collect();
            let _ =
                write!(svg, "<text x=\"{:.1}\" y=\"{y:.1}\" class=\"legend\">{}</text></g>", x + 20.0, escaped(&name));
        }
        svg + "</svg>"
    }

    /// What part of the plane is shown: the ends, and everything that lies beyond them.
    fn frame(&self) -> Frame {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let least = |value: fn(&Point) -> f64| points().map(value).fold(0.0, f64::min).max(-3.0);
        let most = |value: fn(&Point) -> f64| points().map(value).fold(1.0, f64::max).min(4.0);
        let margin = 0.06;
        Frame {
            x: (least(|point| point.kept.low) - margin, most(|point| point.kept.high) + margin),
            y: (least(|point| point.taken.low) - margin, most(|point| point.taken.high) + margin),
        }
    }
}

fn curve(report: &Report, method: &str, (content, style): (usize, usize)) -> Curve {
    let variants = || report.variants.iter().enumerate().filter(|(_, variant)| variant.method == method);
    let mut points: Vec<(f64, Point)> = Vec::new();
    let mut varied: Vec<&String> = variants().flat_map(|(_, variant)| variant.settings.keys()).collect();
    varied.sort();
    varied.dedup();
    let (numbers, mut is_number) = (varied.len() == 1, true);
    for (place, variant) in variants() {
        let value = variant.settings.values().next();
        let number = value.and_then(|value| value.as_f64());
        is_number &= number.is_some();
        let (kept, taken) = shares(report, place, (content, style));
        let (Some(kept), Some(taken)) = (Spread::of(&kept), Spread::of(&taken)) else { continue };
        let label = match &varied[..] {
            [_] => value.map_or_else(String::new, plain),
            _ => variant
                .settings
                .iter()
                .map(|(flag, value)| format!("{flag}={}", plain(value)))
                .collect::<Vec<_>>()
                .join(" "),
        };
        points.push((number.unwrap_or(0.0), Point { variant: place, label, kept, taken }));
    }
    let joined = numbers && is_number && points.len() > 1;
    if joined {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    Curve { method: method.to_owned(), joined, points: points.into_iter().map(|(_, point)| point).collect() }
}

/// How much of the content is kept and of the style taken on, pair by pair.
fn shares(report: &Report, variant: usize, (content, style): (usize, usize)) -> (Vec<f64>, Vec<f64>) {
    let anchor = |kind: Anchor| report.variants.iter().position(|variant| variant.anchor == Some(kind));
    let (Some(identity), Some(copy)) = (anchor(Anchor::Identity), anchor(Anchor::Copy)) else {
        return Default::default();
    };
    let value = |row: &super::Row, metric: usize| row.values.get(metric).copied().flatten();
    let (mut kept, mut taken) = (Vec::new(), Vec::new());
    for row in report.rows.iter().filter(|row| row.variant == variant) {
        let end = |variant| report.row(row.content, row.style, variant);
        let (Some(photo), Some(painting)) = (end(identity), end(copy)) else { continue };
        let share = |metric: usize| {
            let (own, photo, painting) = (value(row, metric)?, value(photo, metric)?, value(painting, metric)?);
            let share = (own - photo) / (painting - photo);
            share.is_finite().then_some(share)
        };
        kept.extend(share(content).map(|share| 1.0 - share));
        taken.extend(share(style));
    }
    (kept, taken)
}

/// The part of the plane that is drawn.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        let part = ((value - self.x.0) / (self.x.1 - self.x.0)).clamp(0.0, 1.0);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let part = ((value - self.y.0) / (self.y.1 - self.y.0)).clamp(0.0, 1.0);
        TOP + (1.0 - part) * HEIGHT
    }

    /// Ticks, names of the axes, and the two ends with the line between them.
    fn draw(&self, svg: &mut String, plane: &Plane) {
        let (right, bottom) = (WIDTH - RIGHT, TOP + HEIGHT);
        let ticks = |(low, high): (f64, f64)| {
            let step = if high - low > 2.5 { 2 } else { 1 };
            ((low * 4.0).ceil() as i32..=(high * 4.0).floor() as i32).filter(move |tick| tick % step == 0)
        };
        for tick in ticks(self.x) {
            let x = self.x(f64::from(tick) / 4.0);
            let _ = write!(svg, "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
            let y = bottom + 18.0;
            let _ = write!(
                svg,
                "<text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\">{} %</text>",
                tick * 25
            );
        }
        for tick in ticks(self.y) {
            let y = self.y(f64::from(tick) / 4.0);
            let _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>");
            let (x, y) = (LEFT - 7.0, y + 4.0);
            let _ = write!(
                svg,
                "<text class=\"tick\" text-anchor=\"end\" x=\"{x:.1}\" y=\"{y:.1}\">{} %</text>",
                tick * 25
            );
        }
        let y = bottom + 38.0;
        let _ = write!(
            svg,
            "<text class=\"axis\" text-anchor=\"end\" x=\"{right}\" y=\"{y:.1}\">content kept ({}) →</text>",
            escaped(&plane.content)
        );
        let _ =
            write!(svg, "<text class=\"axis\" x=\"6\" y=\"15\">↑ style taken on ({})</text>", escaped(&plane.style));
        let (photo, painting) = ((self.x(1.0), self.y(0.0)), (self.x(0.0), self.y(1.0)));
        let _ = write!(
            svg,
            "<line class=\"between\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            painting.0, painting.1, photo.0, photo.1
        );
        for ((x, y), name, anchor, dx, dy) in
            [(photo, "the photo", "end", -10.0, 16.0), (painting, "the painting", "start", 10.0, -8.0)]
        {
            let _ = write!(svg, "<circle class=\"end\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>");
            let _ = write!(
                svg,
                "<text class=\"anchor\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
                x + dx,
                y + dy
            );
        }
    }
}

fn draw(svg: &mut String, frame: &Frame, curve: &Curve, number: usize, report: &Report) {
    let _ = write!(svg, "<g class=\"curve m{}\" data-method=\"{number}\">", number % COLOURS.len());
    let at = |point: &Point| (frame.x(point.kept.median), frame.y(point.taken.median));
    if curve.joined {
        let path: Vec<_> = curve.points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, "<polyline class=\"path\" points=\"{}\"/>", path.join(" "));
    }
    for point in &curve.points {
        let (x, y) = at(point);
        let (left, right) = (frame.x(point.kept.low), frame.x(point.kept.high));
        let (low, high) = (frame.y(point.taken.low), frame.y(point.taken.high));
        let _ = write!(svg, "<line class=\"whisker\" x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\"/>");
        let _ = write!(svg, "<line class=\"whisker\" x1=\"{x:.1}\" y1=\"{low:.1}\" x2=\"{x:.1}\" y2=\"{high:.1}\"/>");
        let _ = write!(
            svg,
            "<g class=\"point\"><title>{}: {:.0} % of the content kept, {:.0} % of the style taken on</title>",
            escaped(&report.variants[point.variant].name()),
            100.0 * point.kept.median,
            100.0 * point.taken.median
        );
        marker(svg, number, (x, y), 5.5);
        svg.push_str("</g>");
        if !point.label.is_empty() {
            let label: String = point.label.chars().take(18).collect();
            let _ = write!(
                svg,
                "<text class=\"setting\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x + 8.0,
                y - 7.0,
                escaped(&label)
            );
        }
    }
    svg.push_str("</g>");
}

/// A method's mark: colour alone does not tell them apart in print.
fn marker(svg: &mut String, number: usize, (x, y): (f64, f64), r: f64) {
    let polygon = |corners: &[(f64, f64)]| {
        let corners: Vec<_> = corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx * r, y + dy * r)).collect();
        format!("<polygon class=\"mark\" points=\"{}\"/>", corners.join(" "))
    };
    *svg += &match number % 5 {
        0 => format!("<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\"/>"),
        1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => polygon(&[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]),
        3 => polygon(&[(0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)]),
        _ => polygon(&[(0.0, 1.2), (1.15, -0.9), (-1.15, -0.9)]),
    };
}

/// How the drawing looks, on light and on dark ground.
fn style() -> String {
    let mut css = String::from(
        ".plane{font-family:system-ui,sans-serif;--ink:#222028;--grey:#6b6772;--line:#e2ddd2;--paper:#fbf9f4}\
         .plane .paper{fill:var(--paper)}.plane .grid{stroke:var(--line);stroke-width:1}\
         .plane text{fill:var(--ink);font-size:15px}.plane .tick{fill:var(--grey);font-size:13px}\
         .plane .anchor{fill:var(--grey);font-size:14px;font-style:italic}\
         .plane .between{stroke:var(--grey);stroke-dasharray:2 5;stroke-width:1.2}\
         .plane .end{fill:var(--paper);stroke:var(--grey);stroke-width:1.6}\
         .plane .path{fill:none;stroke:var(--m);stroke-width:2.2;stroke-linejoin:round}\
         .plane .whisker{stroke:var(--m);stroke-width:1.3;opacity:.45}\
         .plane .mark{fill:var(--m);stroke:var(--paper);stroke-width:1.4}.plane .setting{fill:var(--m);font-size:13px}",
    );
    css += "@media screen and (prefers-color-scheme:dark){.plane{--ink:#ece8e1;--grey:#a39e97;--line:#37343a;--paper:#1b1a1e}}";
    css + &colours(".plane ")
}

/// The colour of each method as the variable `--m` of its class, below a selector.
pub(super) fn colours(within: &str) -> String {
    let class = |(number, colour): (usize, &str)| format!("{within}.m{number}{{--m:{colour}}}");
    let light: String = COLOURS.iter().map(|(light, _)| *light).enumerate().map(class).collect();
    let dark: String = COLOURS.iter().map(|(_, dark)| *dark).enumerate().map(class).collect();
    format!("{light}@media screen and (prefers-color-scheme:dark){{{dark}}}")
}

/// Text within XML or HTML. What XML cannot hold is left out.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            '\t' | '\n' | '\r' => safe.push(' '),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {}
            letter => safe.push(letter),
        }
    }
    safe
}
