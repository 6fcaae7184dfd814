//! CLIP similarities: whether the picture shows what the words say, looks like the painting, or like the photo, to a network
//! that has read the captions of the internet.
//!
//! Each is the cosine of the angle between two embeddings of one CLIP model, as it is: not clamped, not times 2.5 (CLIPScore)
//! or 100 (torchmetrics). Pictures are prepared as that model's own processor does it: short side resized (bicubic), middle
//! cropped, so the margins of pictures that are not square do not count. Values of different CLIP models do not compare.
//!
//! Radford et al., "Learning transferable visual models from natural language supervision", 2021; Hessel et al., "CLIPScore:
//! a reference-free evaluation metric for image captioning", 2021.

use ::image::RgbImage;

use super::style::values;
use super::{Better, Metric, With};
use crate::error::Result;
use crate::image::clip;
use crate::nets::clip::ClipPair;

/// With the words.
pub const TEXT: Metric = Metric {
    name: "clip-text",
    title: "CLIP, words",
    about: "cosine of CLIP's embeddings of the picture and the words (Radford et al. 2021)",
    with: With::Prompt,
    better: Better::Higher,
    range: (-1.0, 1.0),
    digits: 4,
};

/// With the painting.
pub const STYLE: Metric = Metric {
    name: "clip-style",
    title: "CLIP, painting",
    about: "cosine of CLIP's embeddings of the picture and the painting (Radford et al. 2021)",
    with: With::Style,
    ..TEXT
};

/// With the photo.
pub const PHOTO: Metric = Metric {
    name: "clip-photo",
    title: "CLIP, photo",
    about: "cosine of CLIP's embeddings of the picture and the photo (Radford et al. 2021)",
    with: With::Photo,
    ..TEXT
};

/// A picture's or a prompt's direction in CLIP's space.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    values: Vec<f32>,
}

impl Embedding {
    /// Of a picture.
    ///
    /// # Errors
    /// When the picture is far too long and thin, or the net fails.
    pub fn of_picture(net: &ClipPair, picture: &RgbImage) -> Result<Self> {
        let pixels = clip::preprocess(picture, net.image_size())?;
        Ok(Self { values: values(&net.image(&pixels)?)? })
    }

    /// Of words. What does not fit into the model's length is not read.
    ///
    /// # Errors
    /// When the model reads no words.
    pub fn of_words(net: &ClipPair, words: &str) -> Result<Self> {
        Ok(Self { values: values(&net.words(words)?.0)? })
    }
}

/// The cosine of the angle between two embeddings: -1 to 1.
pub fn similarity(a: &Embedding, b: &Embedding) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let lengths = (dot(&a.values, &a.values) * dot(&b.values, &b.values)).sqrt();
    if lengths > 0.0 { (dot(&a.values, &b.values) / lengths).clamp(-1.0, 1.0) } else { 0.0 }
}
