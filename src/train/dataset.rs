//! Folders of training pictures and the random crops a net sees of them.
//!
//! Which crop comes at which step is a function of the seed and the step, so a training that was interrupted sees the same
//! pictures when it goes on.

use std::path::{Path, PathBuf};

use ::image::RgbImage;
use ::image::imageops::{crop_imm, flip_horizontal_in_place};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::image::{read, resize, tensor};
use crate::progress::{OnProgress, Progress, Stage};
use crate::rng::Stream;

/// Pictures kept in memory, in bytes; a larger set is read again for every crop.
const MAX_KEPT: u64 = 3 << 30;
/// Longer than this many times its short side a picture is cut down to its middle.
const MAX_ASPECT: u32 = 4;
/// Pictures decoded between two reports.
const AT_ONCE: usize = 32;

/// What may happen to a picture on its way into a batch.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Crops {
    /// The side of a crop as the net sees it, in pixels.
    pub size: u32,
    /// The short side every picture is scaled to once.
    pub short_side: u32,
    /// The largest part of a picture that a crop may take, in units of `size`: 1 never rescales, 2 shows it at half its size
    /// at times.
    pub zoom: f64,
    /// How often the three channels change places.
    pub jitter: f64,
}

/// The pictures of a folder.
#[derive(Debug)]
pub struct Dataset {
    files: Vec<PathBuf>,
    /// Decoded and scaled; empty when there are too many.
    kept: Vec<RgbImage>,
    skipped: Vec<(PathBuf, Error)>,
    crops: Crops,
    /// Tells the streams of two folders apart.
    stream: u64,
}

impl Dataset {
    /// Reads a folder. Files that are no pictures are left out and listed in [`Self::skipped`].
    ///
    /// # Errors
    /// When the folder cannot be read or holds no picture, or the work is interrupted.
    pub fn open(folder: &Path, crops: Crops, stream: u64, on_progress: &mut OnProgress<'_>) -> Result<Self> {
        let mut files = list(folder)?;
        files.sort();
        let side = u64::from(crops.short_side);
        let keep = files.len() as u64 * side * side * 4 <= MAX_KEPT;
        let (mut kept, mut skipped, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let label = folder.display().to_string();
        for (index, files) in files.chunks(AT_ONCE).enumerate().take_while(|_| keep) {
            let done = (index * AT_ONCE) as u64;
            on_progress(&Progress {
                stage: Stage::Load,
                done,
                total: done + files.len() as u64,
                label: label.clone(),
            })?;
            let pictures: Vec<_> = files.par_iter().map(|file| load(file, crops.short_side)).collect();
            for (file, picture) in files.iter().zip(pictures) {
                match picture {
                    Ok(picture) => {
                        kept.push(picture);
                        found.push(file.clone());
                    }
                    Err(error) => skipped.push((file.clone(), error)),
                }
            }
        }
        let files = if keep { found } else { files };
        if files.is_empty() {
            let hint = "put PNG, JPEG or WebP files into it";
            return Err(Error::file(folder, "holds no picture").with_hint(hint));
        }
        Ok(Self { files, kept, skipped, crops, stream })
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Files that could not be read as pictures, and why.
    pub fn skipped(&self) -> &[(PathBuf, Error)] {
        &self.skipped
    }

    /// For the record: how many pictures, how they are cut, and a hash of the file names, to notice that the folder has
    /// changed.
    pub fn note(&self) -> Value {
        let mut hash = Sha256::new();
        for file in &self.files {
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update([0]);
        }
        let names: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        json!({ "pictures": self.len(), "names": names, "crops": self.crops })
    }

    /// The batch of a step: `[batch, 3, size, size]` in 0..1. Every picture comes once before one comes twice.
    ///
    /// # Errors
    /// When a picture that is not kept in memory cannot be read again.
    pub fn batch(&self, seed: u64, step: u64, batch: usize, device: &Device) -> Result<Tensor> {
        let first = step as usize * batch;
        let mut orders: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut chosen = Vec::with_capacity(batch);
        for at in first..first + batch {
            let round = at / self.len();
            if orders.last().is_none_or(|(last, _)| *last != round) {
                orders.push((round, Stream::new(&[seed, self.stream, u64::MAX, round as u64]).shuffled(self.len())));
            }
            chosen.extend(orders.last().map(|(_, order)| order[at % self.len()]));
        }
        let crops = chosen
            .into_par_iter()
            .enumerate()
            .map(|(slot, picture)| {
                let mut random = Stream::new(&[seed, self.stream, step, slot as u64]);
                tensor::to_unit(&self.crop(picture, &mut random)?)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&crops, 0)?.to_device(device)?)
    }

    /// The middle of the first `count` pictures, for previews.
    ///
    /// # Errors
    /// When a picture that is not kept in memory cannot be read again.
    pub fn samples(&self, count: usize) -> Result<Vec<RgbImage>> {
        let size = self.crops.size;
        (0..count.min(self.len()))
            .map(|index| {
                let picture = self.picture(index * self.len() / count.min(self.len()))?;
                let side = picture.width().min(picture.height());
                resize::lanczos(&middle(&picture, side, side), size, size)
            })
            .collect()
    }

    fn picture(&self, index: usize) -> Result<std::borrow::Cow<'_, RgbImage>> {
        match self.kept.get(index) {
            Some(picture) => Ok(std::borrow::Cow::Borrowed(picture)),
            None => load(&self.files[index], self.crops.short_side).map(std::borrow::Cow::Owned),
        }
    }

    fn crop(&self, index: usize, random: &mut Stream) -> Result<RgbImage> {
        let picture = self.picture(index)?;
        let Crops { size, zoom, jitter, .. } = self.crops;
        let largest = (f64::from(size) * zoom.max(1.0)).min(f64::from(picture.width().min(picture.height())));
        let side = (f64::from(size) + random.uniform() * (largest - f64::from(size))).round() as u32;
        let mut offset = |length: u32| random.below((length - side) as usize + 1) as u32;
        let (x, y) = (offset(picture.width()), offset(picture.height()));
        let mut crop = crop_imm(&*picture, x, y, side, side).to_image();
        if side != size {
            crop = resize::lanczos(&crop, size, size)?;
        }
        if random.uniform() < 0.5 {
            flip_horizontal_in_place(&mut crop);
        }
        if random.uniform() < jitter {
            let order = random.shuffled(3);
            for pixel in crop.pixels_mut() {
                let from = pixel.0;
                pixel.0 = [from[order[0]], from[order[1]], from[order[2]]];
            }
        }
        Ok(crop)
    }
}

/// The files of a folder, without hidden ones.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |reason| Error::io(folder, reason);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// A picture with its short side at `short_side`.
fn load(file: &Path, short_side: u32) -> Result<RgbImage> {
    let picture = read::open(file)?;
    let short = picture.width().min(picture.height());
    let longest = short.saturating_mul(MAX_ASPECT);
    let picture = middle(&picture, picture.width().min(longest), picture.height().min(longest));
    let scaled = |side: u32| (f64::from(side) * f64::from(short_side) / f64::from(short)).round() as u32;
    let (width, height) = (scaled(picture.width()), scaled(picture.height()));
    if (width, height) == picture.dimensions() { Ok(picture) } else { resize::lanczos(&picture, width, height) }
}

/// The middle of a picture.
fn middle(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    crop_imm(picture, (picture.width() - width) / 2, (picture.height() - height) / 2, width, height).to_image()
}
