//! Feed-forward style nets: a picture in, the painted picture out, one pass. One net knows one style or several.
//!
//! One body (three convolutions down to a quarter, residual blocks, three convolutions up) in the three flavours whose files
//! are public, and the one of this program. Widths and the number of blocks come from the weights, the flavour from the names:
//! - [`Flavour::ByHeart`]: what this program trains, the painter of its arbitrary-style net with a fixed style;
//! - [`Flavour::Examples`]: `fast_neural_style` of pytorch/examples, one style a file;
//! - [`Flavour::Lengstrom`]: TensorFlow's variables in the order they were made, as ml5 publishes them, one style a folder;
//! - [`Flavour::Conditional`]: one pair of scale and shift per style in every norm, so that styles can be mixed:
//!   Magenta's nets.
//!
//! Johnson et al., "Perceptual losses for real-time style transfer and super-resolution", 2016; Ulyanov et al., "Instance
//! normalization", 2016; Dumoulin et al., "A learned representation for artistic style", 2017.

mod by_heart;
mod conditional;
mod examples;
mod layer;
mod lengstrom;

use std::collections::HashMap;

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nets::adain::compact::Compact;
use crate::nets::strips::{self, OnRows, OnStrip, Rows};
use by_heart::ByHeart;
use layer::{Layer, Stage};

/// What the errors speak of.
const SUBJECT: &str = "the fast net's weights";

/// Pictures with a shorter side are continued to this one: mirrored edges need pixels to mirror.
const MIN_SIDE: usize = 16;

/// More residual blocks than this are no net of this kind.
const MAX_BLOCKS: usize = 64;

/// Whose files a net comes from; it decides about names, padding, enlargement and the range of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// This program's own: [`Painter`](crate::nets::painter::Painter) with the codes of its styles.
    ByHeart,
    /// pytorch/examples: mirrored edges, nearest enlargement, bytes in and out.
    Examples,
    /// lengstrom's TensorFlow nets, as ml5 has them: zeros around, transposed convolutions, a tangent at the end.
    Lengstrom,
    /// One pair of scale and shift per style in every norm: mirrored edges, nearest enlargement, a sigmoid at the end.
    Conditional,
}

impl Flavour {
    /// The flavour of a file, from the names in it.
    pub fn detect(contains: impl Fn(&str) -> bool) -> Option<Self> {
        if contains("code") && contains("palette") && contains("down.0.weight") {
            Some(Self::ByHeart)
        } else if contains("conv1.conv2d.weight") || contains("module.conv1.conv2d.weight") {
            Some(Self::Examples)
        } else if contains("Variable") && contains("Variable_17") {
            Some(Self::Lengstrom)
        } else if contains("contract.0.w") {
            Some(Self::Conditional)
        } else {
            None
        }
    }
}

/// Which of a net's styles to paint with, and how much of each.
#[derive(Debug, Clone)]
pub struct Blend {
    /// `[1, styles]`.
    weights: Tensor,
}

/// A feed-forward style net.
#[derive(Debug, Clone)]
pub struct FastNet {
    flavour: Flavour,
    body: Body,
    styles: usize,
}

#[derive(Debug, Clone)]
enum Body {
    ByHeart(ByHeart),
    Stages(Vec<Stage>),
}

impl FastNet {
    /// Loads a net of any flavour.
    ///
    /// # Errors
    /// When the names are none of a known flavour, or a tensor is missing or misshapen.
    pub fn new(vb: VarBuilder<'_>) -> Result<Self> {
        let Some(flavour) = Flavour::detect(|name| vb.contains_tensor(name)) else {
            return Err(Error::usage(SUBJECT, "these are not the weights of a feed-forward style net").with_hint(
                "known are the files of pytorch/examples fast_neural_style, ml5's style-transfer folders, and what \
                 `impasto train fast` makes",
            ));
        };
        let stages = match flavour {
            Flavour::ByHeart => {
                let net = ByHeart::new(&vb)?;
                let styles = net.styles();
                return Ok(Self { flavour, body: Body::ByHeart(net), styles });
            }
            Flavour::Examples if vb.contains_tensor("conv1.conv2d.weight") => examples::stages(&vb)?,
            Flavour::Examples => examples::stages(&vb.pp("module"))?,
            Flavour::Lengstrom => lengstrom::stages(&vb)?,
            Flavour::Conditional => conditional::stages(&vb)?,
        };
        let styles = check(&stages)?;
        Ok(Self { flavour, body: Body::Stages(stages), styles })
    }

    /// Whose file the net came from.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// How many styles the net knows.
    pub fn styles(&self) -> usize {
        self.styles
    }

    /// Styles by their number and how much of each; the amounts are brought to a sum of 1.
    ///
    /// # Errors
    /// When there is none, a number is too large, or the amounts are negative or all zero.
    pub fn blend(&self, styles: &[(usize, f64)]) -> Result<Blend> {
        let mut weights = vec![0f32; self.styles];
        let total: f64 = styles.iter().map(|&(_, amount)| amount).sum();
        for &(style, amount) in styles {
            let Some(weight) = weights.get_mut(style) else {
                return Err(Error::usage("style", format!("number {style}: the net knows {} styles", self.styles))
                    .with_hint(format!("numbers go from 0 to {}", self.styles - 1)));
            };
            if !(amount >= 0.0 && amount.is_finite()) {
                return Err(Error::usage("style", format!("an amount of {amount} cannot be mixed")));
            }
            *weight += (amount / total) as f32;
        }
        if !(total > 0.0 && total.is_finite()) {
            return Err(Error::usage("style", "no style has an amount above zero"));
        }
        let device = self.device();
        Ok(Blend { weights: Tensor::from_vec(weights, (1, self.styles), device)? })
    }

    fn device(&self) -> &candle_core::Device {
        match &self.body {
            Body::ByHeart(net) => net.codes().device(),
            Body::Stages(stages) => match &stages[0] {
                Stage::Plain(layer) | Stage::Residual(layer, _) => layer.device(),
            },
        }
    }

    /// Paints `[batch, 3, height, width]` RGB in 0..1 to the same; values outside 0..1 are the caller's to cut.
    ///
    /// Where a side is no multiple of 4 the references return up to 3 pixels more; they are cut off here.
    ///
    /// # Errors
    /// When the picture is no RGB or has no pixels, or the blend is another net's.
    pub fn forward(&self, picture: &Tensor, blend: &Blend) -> Result<Tensor> {
        let (batch, channels, height, width) = picture.dims4()?;
        let styles = blend.weights.dim(1)?;
        if channels != 3 || height == 0 || width == 0 || styles != self.styles {
            let shape = picture.dims();
            return Err(Error::usage("picture", format!("a fast net cannot take {shape:?} with {styles} styles")));
        }
        let picture = strips::extend(picture, MIN_SIDE)?;
        let painted = match &self.body {
            Body::ByHeart(net) => net.painter.paint(&picture, &net.code(&blend.weights)?, 0)?,
            Body::Stages(stages) => {
                let weights = blend.weights.repeat((batch, 1))?;
                let mut xs = self.enter(&picture)?;
                for stage in stages {
                    xs = stage.forward(&xs, &weights)?;
                }
                self.leave(&xs)?
            }
        };
        Ok(painted.narrow(2, 0, height)?.narrow(3, 0, width)?.contiguous()?)
    }

    /// The tensors of a net of one style that begins as `net` paints `painting [1, 3, h, w]`: for a training.
    ///
    /// # Errors
    /// When the painting is too small.
    pub fn learned_from(net: &Compact, painting: &Tensor) -> Result<HashMap<String, Tensor>> {
        let code = net.encode_style(painting)?;
        let (modulation, palette) = code.parts()?;
        let mut tensors = net.painter().tensors();
        tensors.extend([("code".to_owned(), modulation), ("palette".to_owned(), palette)]);
        Ok(tensors)
    }

    /// [`forward`](Self::forward) for one picture of any size in bounded memory: rows are read as they are needed and handed
    /// out as they are finished.
    ///
    /// # Errors
    /// As `forward`, and what the callbacks return.
    pub fn forward_rows(
        &self,
        picture: &Rows<'_>,
        blend: &Blend,
        on_rows: &mut OnRows<'_>,
        on_strip: &mut OnStrip<'_>,
    ) -> Result<()> {
        let weights = &blend.weights;
        if picture.height.min(picture.width) < MIN_SIDE || weights.dims() != [1, self.styles] {
            let painted = self.forward(&(picture.read)(0..picture.height)?, blend)?;
            return on_rows(0, painted);
        }
        let stages = match &self.body {
            Body::ByHeart(net) => return net.painter.paint_rows(picture, &net.code(weights)?, 0, on_rows, on_strip),
            Body::Stages(stages) => stages,
        };
        let plain = |stage: &Stage| matches!(stage, Stage::Plain(_));
        let (down, rest) = stages.split_at(stages.iter().take_while(|&stage| plain(stage)).count().min(3));
        let (middle, up) = rest.split_at(rest.iter().take_while(|&stage| !plain(stage)).count());
        let steps = |stages| -> Result<Vec<_>> {
            let layers = <[Stage]>::iter(stages).filter_map(|stage| match stage {
                Stage::Plain(layer) => Some(layer.step(weights)),
                Stage::Residual(..) => None,
            });
            layers.collect()
        };
        let residual = middle.iter().filter_map(|stage| match stage {
            Stage::Residual(first, second) => Some((first, second)),
            Stage::Plain(_) => None,
        });
        let residual = residual.map(|(first, second)| Ok((first.step(weights)?, second.step(weights)?)));
        let body = strips::Body {
            enter: Box::new(|slab| self.enter(slab)),
            down: steps(down)?,
            add: None,
            residual: residual.collect::<Result<_>>()?,
            up: steps(up)?,
            leave: Box::new(|xs| self.leave(xs)),
        };
        strips::paint(&body, picture, on_rows, on_strip)
    }

    /// To the range that the first layer was trained on.
    fn enter(&self, picture: &Tensor) -> Result<Tensor> {
        Ok(match self.flavour {
            Flavour::ByHeart | Flavour::Conditional => picture.clone(),
            Flavour::Examples | Flavour::Lengstrom => (picture * 255.0)?,
        })
    }

    /// From the last layer to 0..1.
    fn leave(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(match self.flavour {
            Flavour::Conditional => candle_nn::ops::sigmoid(xs)?,
            Flavour::ByHeart => xs.clone(),
            Flavour::Examples => (xs / 255.0)?,
            Flavour::Lengstrom => xs.tanh()?.affine(150.0 / 255.0, 0.5)?,
        })
    }
}

/// Whether every layer takes what the one before gives, from 3 channels to 3. The number of styles.
fn check(stages: &[Stage]) -> Result<usize> {
    let bad = |reason: String| Err(Error::usage(SUBJECT, reason));
    let mut channels = 3;
    let mut styles = None;
    for (number, stage) in stages.iter().enumerate() {
        let before = channels;
        let layers: Vec<&Layer> = match stage {
            Stage::Plain(layer) => vec![layer],
            Stage::Residual(first, second) => vec![first, second],
        };
        for layer in layers {
            let (inputs, outputs) = layer.channels()?;
            if inputs != channels {
                return bad(format!("layer {number} takes {inputs} channels, the one before gives {channels}"));
            }
            channels = outputs;
            if let Some(known) = layer.styles()?
                && *styles.get_or_insert(known) != known
            {
                return bad(format!("layer {number} knows {known} styles, the ones before {styles:?}"));
            }
        }
        if matches!(stage, Stage::Residual(..)) && channels != before {
            return bad(format!("residual block {number} takes {before} channels and gives {channels}"));
        }
    }
    match styles {
        Some(styles) if styles > 0 && channels == 3 => Ok(styles),
        _ => bad(format!("the net gives {channels} channels and knows {styles:?} styles")),
    }
}
