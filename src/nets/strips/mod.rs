//! Feed-forward nets over pictures that are too large to be taken whole: strip by strip, and yet equal to the whole.
//!
//! A strip is taken with as many rows above and below as the layers see, which are dropped again. What would differ are the
//! norms, which look at the whole picture; so their statistics are measured first, in one pass over the strips for each norm
//! at full and half size. What lies at the coarsest size, a sixteenth of the picture or less, is kept, in a temporary file if
//! there is too much of it. Where the picture ends, a strip ends too, so mirrored edges come out by themselves.

mod coarse;

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::ops::modulate;
use crate::ops::trainable::moments;
pub(super) use coarse::Coarse;

/// Under the root of [`moments`], to be taken off again.
const MOMENTS_EPS: f64 = 1e-5;

/// A picture that is read in rows.
pub struct Rows<'a> {
    /// All its rows.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// About how many pixels to work on at a time. It also says how much of the coarsest size stays in memory, 1 KiB for
    /// each of these pixels; what is more goes to a temporary file.
    pub pixels: usize,
    /// Rows of the picture, `[1, 3, rows, width]` RGB in 0..1.
    pub read: &'a dyn Fn(Range<usize>) -> Result<Tensor>,
}

impl std::fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("height", &self.height).field("width", &self.width).finish_non_exhaustive()
    }
}

impl Rows<'_> {
    /// Bytes of one layer at the coarsest size to keep in memory. A residual block has three of them.
    fn keep(&self) -> usize {
        self.pixels.saturating_mul(1 << 10) / 3
    }

    /// A good size of strips: layers take about 100 MB at a time, and up to 512 MiB stay in memory.
    pub const PIXELS: usize = 1 << 19;
}

/// Takes finished rows `[1, 3, rows, width]` from the top down: the number of the first one, and the rows.
pub type OnRows<'a> = dyn FnMut(usize, Tensor) -> Result<()> + 'a;

/// Told how many strips are done, and of how many. An error stops the work.
pub type OnStrip<'a> = dyn FnMut(usize, usize) -> Result<()> + 'a;

/// What a layer makes of its input.
pub(super) type Map<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

/// The same for something that depends on the place: it is told the number of the first row.
pub(super) type Place<'a> = Box<dyn Fn(usize, Tensor) -> Result<Tensor> + 'a>;

/// A layer as the strips need it.
pub(super) struct Step<'a> {
    pub(super) convolve: Map<'a>,
    /// Scale and shift `[1, channels]` of the norm that follows, and what stands under its root.
    pub(super) norm: Option<(Tensor, Tensor, f64)>,
    pub(super) relu: bool,
    /// Rows seen above and below, in the enlarged input.
    pub(super) reach: usize,
    pub(super) stride: usize,
    pub(super) upsample: usize,
}

/// A net that goes down, does its work at the coarsest size, and comes up again.
pub(super) struct Body<'a> {
    pub(super) enter: Map<'a>,
    pub(super) down: Vec<Step<'a>>,
    /// What happens at the coarsest size before the residual blocks, given the number of the first row.
    pub(super) add: Option<Place<'a>>,
    /// Pairs of layers whose result is added to their input.
    pub(super) residual: Vec<(Step<'a>, Step<'a>)>,
    pub(super) up: Vec<Step<'a>>,
    pub(super) leave: Map<'a>,
}

/// The strips of a side of `units`, the size that all layers agree upon.
struct Strips {
    /// Units in all, and in each strip.
    units: usize,
    step: usize,
    /// Units to take along on both sides.
    halo: usize,
}

impl Strips {
    fn count(&self) -> usize {
        self.units.div_ceil(self.step)
    }

    /// Units to keep of a strip, and units to compute for them.
    fn ranges(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.units).step_by(self.step).map(|start| {
            let end = (start + self.step).min(self.units);
            (start..end, start.saturating_sub(self.halo)..(end + self.halo).min(self.units))
        })
    }
}

/// Means and variances gathered strip by strip.
#[derive(Default)]
pub(super) struct Statistics {
    parts: Vec<(f64, Vec<f32>, Vec<f32>)>,
}

impl Statistics {
    fn add(&mut self, xs: &Tensor) -> Result<()> {
        let (mean, deviation) = moments(xs)?;
        let host = |xs: Tensor| xs.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let pixels = (xs.dim(2)? * xs.dim(3)?) as f64;
        self.parts.push((pixels, host(mean)?, host(deviation)?));
        Ok(())
    }

    /// Mean and population variance of each channel, and pixels in all.
    pub(super) fn total(&self) -> (Vec<(f64, f64)>, f64) {
        let pixels: f64 = self.parts.iter().map(|(pixels, ..)| pixels).sum();
        let channels = self.parts.first().map_or(0, |(_, means, _)| means.len());
        let channel = |channel: usize| {
            let weighted = |value: &dyn Fn(f64, f64) -> f64| {
                let parts = self.parts.iter();
                parts
                    .map(|(pixels, means, deviations)| {
                        pixels * value(f64::from(means[channel]), f64::from(deviations[channel]))
                    })
                    .sum::<f64>()
                    / pixels
            };
            let mean = weighted(&|mean, _| mean);
            let variance = weighted(&|part, deviation| deviation * deviation - MOMENTS_EPS + (part - mean).powi(2));
            (mean, variance.max(0.0))
        };
        ((0..channels).map(channel).collect(), pixels)
    }
}

/// A norm as a factor and an addend per channel, `[1, channels]`.
type Fixed = (Tensor, Tensor);

fn fix(statistics: &Statistics, (scale, shift, eps): &(Tensor, Tensor, f64)) -> Result<Fixed> {
    let (channels, _) = statistics.total();
    let host = |xs: &Tensor| xs.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let (scales, shifts) = (host(scale)?, host(shift)?);
    let mut factors = Vec::with_capacity(channels.len());
    let mut addends = Vec::with_capacity(channels.len());
    for ((mean, variance), (scale, shift)) in channels.into_iter().zip(scales.into_iter().zip(shifts)) {
        let factor = f64::from(scale) / (variance + eps).sqrt();
        factors.push(factor as f32);
        addends.push((f64::from(shift) - mean * factor) as f32);
    }
    let tensor = |values: Vec<f32>| -> Result<Tensor> {
        let count = values.len();
        Ok(Tensor::from_vec(values, (1, count), scale.device())?.to_dtype(scale.dtype())?)
    };
    Ok((tensor(factors)?, tensor(addends)?))
}

/// The layers from the first to the last of `steps`, the norms of all but the last one known. The last one's norm is left
/// out.
fn through(steps: &[Step<'_>], fixed: &[Option<Fixed>], mut xs: Tensor) -> Result<Tensor> {
    for (number, step) in steps.iter().enumerate() {
        xs = (step.convolve)(&xs)?;
        if number + 1 < steps.len() {
            xs = settle(step, fixed[number].as_ref(), xs)?;
        }
    }
    Ok(xs)
}

/// What follows a convolution.
fn settle(step: &Step<'_>, fixed: Option<&Fixed>, xs: Tensor) -> Result<Tensor> {
    match fixed {
        Some((factor, addend)) => modulate(&xs, factor, addend, step.relu),
        None if step.relu => Ok(xs.relu()?),
        None => Ok(xs),
    }
}

/// Rows `keep` of something that was computed from row `from` on.
fn cut(xs: &Tensor, from: usize, keep: Range<usize>) -> Result<Tensor> {
    Ok(xs.narrow(2, keep.start - from, keep.len())?.contiguous()?)
}

/// Strips of a picture for layers that make one unit of `unit` rows and see `reach` rows beyond.
fn strips(picture: &Rows<'_>, unit: usize, reach: usize) -> Result<Strips> {
    if picture.height == 0 || picture.width == 0 {
        return Err(Error::usage("picture", format!("{} x {} pixels", picture.width, picture.height)));
    }
    let halo = reach.div_ceil(unit) + 1;
    // Shorter strips than what is taken along would only waste time.
    let step = (picture.pixels / picture.width / unit).max(2 * halo).max(8);
    Ok(Strips { units: picture.height.div_ceil(unit), step, halo })
}

/// Reads the rows of some units. All but the last end where the picture's last one would: a convolution that takes every
/// other row must find the same rows as in the whole picture, also when it counts from below.
fn read(picture: &Rows<'_>, units: Range<usize>, all: usize, unit: usize) -> Result<Tensor> {
    let end = if units.end == all {
        picture.height
    } else {
        let rest = picture.height % unit;
        units.end * unit - if rest == 0 { 0 } else { unit - rest }
    };
    (picture.read)(units.start * unit..end)
}

/// Continues a picture whose sides are shorter than `least` by its edge pixels, to the right and below: what mirrors its
/// edges needs something to mirror.
pub(super) fn extend(picture: &Tensor, least: usize) -> Result<Tensor> {
    let (_, _, height, width) = picture.dims4()?;
    if height == 0 || width == 0 {
        return Err(Error::usage("picture", format!("{width} x {height} pixels")));
    }
    let missing = |side: usize| least.saturating_sub(side);
    if missing(height) + missing(width) == 0 {
        return Ok(picture.clone());
    }
    Ok(picture.pad_with_same(2, 0, missing(height))?.pad_with_same(3, 0, missing(width))?)
}

/// What `layers` make of a picture at the coarsest size, one row per `unit` rows.
///
/// `reach` is how many rows of the picture a result depends on above and below.
pub(super) fn gather(
    picture: &Rows<'_>,
    (unit, reach): (usize, usize),
    layers: &dyn Fn(&Tensor) -> Result<Tensor>,
    on_strip: &mut OnStrip<'_>,
) -> Result<Coarse> {
    let strips = strips(picture, unit, reach)?;
    let mut coarse = Coarse::new(&strips, picture.keep());
    for (number, (keep, take)) in strips.ranges().enumerate() {
        let slab = read(picture, take.clone(), strips.units, unit)?;
        coarse.set(number, cut(&layers(&slab)?, take.start, keep)?)?;
        on_strip(number + 1, strips.count())?;
    }
    Ok(coarse)
}

/// Mean and population standard deviation (with 1e-5 under the root) of what `layers` give, each output `[1, channels, ..]`
/// being the picture divided by its number: `[1, channels]` each.
pub(super) fn measure(
    picture: &Rows<'_>,
    (unit, reach): (usize, usize),
    scales: &[usize],
    layers: &dyn Fn(&Tensor) -> Result<Vec<Tensor>>,
) -> Result<Vec<(Tensor, Tensor)>> {
    let strips = strips(picture, unit, reach)?;
    let mut statistics: Vec<Statistics> = scales.iter().map(|_| Statistics::default()).collect();
    let mut device = Device::Cpu;
    for (keep, take) in strips.ranges() {
        let outputs = layers(&read(picture, take.clone(), strips.units, unit)?)?;
        for ((statistics, &scale), xs) in statistics.iter_mut().zip(scales).zip(&outputs) {
            device = xs.device().clone();
            let finer = unit / scale;
            let end = (keep.end * finer).min(take.start * finer + xs.dim(2)?);
            statistics.add(&cut(xs, take.start * finer, keep.start * finer..end)?)?;
        }
    }
    let tensors = |statistics: &Statistics| -> Result<(Tensor, Tensor)> {
        let (channels, _) = statistics.total();
        let row = |value: &dyn Fn(&(f64, f64)) -> f64| {
            let values: Vec<f32> = channels.iter().map(|channel| value(channel) as f32).collect();
            Tensor::from_vec(values, (1, channels.len()), &device)
        };
        Ok((row(&|&(mean, _)| mean)?, row(&|&(_, variance)| (variance + MOMENTS_EPS).sqrt())?))
    };
    statistics.iter().map(tensors).collect()
}

/// Runs a net over a picture, and hands out the finished rows.
pub(super) fn paint(
    body: &Body<'_>,
    picture: &Rows<'_>,
    on_rows: &mut OnRows<'_>,
    on_strip: &mut OnStrip<'_>,
) -> Result<()> {
    let unit: usize = body.down.iter().map(|step| step.stride).product();
    let (mut reach, mut scale) = (0, 1);
    for step in &body.down {
        reach += step.reach * scale;
        scale *= step.stride;
    }
    let passes = |steps: &[Step<'_>]| steps.iter().filter(|step| step.norm.is_some()).count();
    let strips = strips(picture, unit, reach)?;
    let last_normed = body.down.last().is_some_and(|step| step.norm.is_some());
    let down_passes = passes(&body.down) + usize::from(!last_normed);
    let up = up_strips(body, picture, unit)?;
    let total = down_passes * strips.count() + body.residual.len() + (passes(&body.up) + 1) * up.count();
    let mut done = 0;
    let mut tick = || {
        done += 1;
        on_strip(done, total)
    };

    let mut fixed: Vec<Option<Fixed>> = Vec::new();
    let mut scale = 1;
    for (number, step) in body.down.iter().enumerate() {
        scale *= step.stride;
        let last = number + 1 == body.down.len();
        let Some(norm) = step.norm.as_ref().filter(|_| !last) else {
            fixed.push(None);
            continue;
        };
        let mut statistics = Statistics::default();
        for (keep, take) in strips.ranges() {
            let slab = (body.enter)(&read(picture, take.clone(), strips.units, unit)?)?;
            let xs = through(&body.down[..=number], &fixed, slab)?;
            let finer = unit / scale;
            let end = (keep.end * finer).min(take.start * finer + xs.dim(2)?);
            statistics.add(&cut(&xs, take.start * finer, keep.start * finer..end)?)?;
            tick()?;
        }
        fixed.push(Some(fix(&statistics, norm)?));
    }
    let layers = |slab: &Tensor| through(&body.down, &fixed, (body.enter)(slab)?);
    let mut coarse = gather(picture, (unit, reach), &layers, &mut |_, _| tick())?;
    if let Some(step) = body.down.last() {
        let fixed = match &step.norm {
            Some(norm) => Some(fix(&coarse.statistics()?, norm)?),
            None => None,
        };
        coarse.change(&|_, strip| settle(step, fixed.as_ref(), strip))?;
    }
    if let Some(add) = &body.add {
        coarse.change(add)?;
    }
    for (first, second) in &body.residual {
        let known = |step: &Step<'_>, statistics: &Statistics| -> Result<Option<Fixed>> {
            step.norm.as_ref().map(|norm| fix(statistics, norm)).transpose()
        };
        let (inner, statistics) = coarse.map(first.reach, &|slab| (first.convolve)(&slab))?;
        let fixed = known(first, &statistics)?;
        let layer = |slab| (second.convolve)(&settle(first, fixed.as_ref(), slab)?);
        let (outer, statistics) = inner.map(second.reach, &layer)?;
        drop(inner);
        let fixed = known(second, &statistics)?;
        coarse.add(outer, &|strip| settle(second, fixed.as_ref(), strip))?;
        tick()?;
    }
    rise(body, picture, &coarse, &up, on_rows, &mut tick)
}

/// The strips of the way up, in rows of the coarsest size.
fn up_strips(body: &Body<'_>, picture: &Rows<'_>, unit: usize) -> Result<Strips> {
    let (mut reach, mut scale) = (0, 1);
    for step in &body.up {
        scale *= step.upsample;
        reach += (step.reach * unit).div_ceil(scale);
    }
    strips(picture, unit, reach)
}

/// The way up from what lies at the coarsest size.
fn rise(
    body: &Body<'_>,
    picture: &Rows<'_>,
    coarse: &Coarse,
    strips: &Strips,
    on_rows: &mut OnRows<'_>,
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let mut fixed: Vec<Option<Fixed>> = Vec::new();
    let mut finer = 1;
    for (number, step) in body.up.iter().enumerate() {
        finer *= step.upsample;
        let Some(norm) = &step.norm else {
            fixed.push(None);
            continue;
        };
        let mut statistics = Statistics::default();
        for (keep, take) in strips.ranges() {
            let xs = through(&body.up[..=number], &fixed, coarse.rows(take.clone())?)?;
            statistics.add(&cut(&xs, take.start * finer, keep.start * finer..keep.end * finer)?)?;
            tick()?;
        }
        fixed.push(Some(fix(&statistics, norm)?));
    }
    for (keep, take) in strips.ranges() {
        let mut xs = through(&body.up, &fixed, coarse.rows(take.clone())?)?;
        if let (Some(step), Some(fixed)) = (body.up.last(), fixed.last()) {
            xs = settle(step, fixed.as_ref(), xs)?;
        }
        let rows = keep.start * finer..(keep.end * finer).min(picture.height);
        let xs = cut(&xs, take.start * finer, rows.clone())?.narrow(3, 0, picture.width)?;
        on_rows(rows.start, (body.leave)(&xs)?.contiguous()?)?;
        tick()?;
    }
    Ok(())
}
/// [`paint`] for what is already at the coarsest size, a row of it being `unit` rows of the picture.
pub(super) fn paint_up(
    body: &Body<'_>,
    picture: &Rows<'_>,
    coarse: &Coarse,
    unit: usize,
    on_rows: &mut OnRows<'_>,
    on_strip: &mut OnStrip<'_>,
) -> Result<()> {
    let strips = up_strips(body, picture, unit)?;
    let passes = 1 + body.up.iter().filter(|step| step.norm.is_some()).count();
    let (mut done, total) = (0, passes * strips.count());
    rise(body, picture, coarse, &strips, on_rows, &mut || {
        done += 1;
        on_strip(done, total)
    })
}
