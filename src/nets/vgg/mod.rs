//! Perceptual networks: a picture's features at the layers of a frozen VGG, and the gradient back to the picture.
//!
//! The chain is straight, so the gradient is written out instead of recorded: no gradients of weights that never change, half
//! the memory, and the fast convolution on every backend. (candle's own `max_pool2d` would also scale it down by four per
//! pool.) Losses are the caller's: what it hands to [`Backbone::backward`] is their gradient to each layer.
//!
//! Simonyan, Zisserman, "Very deep convolutional networks", 2014; Gatys et al., "A neural algorithm of artistic style", 2015;
//! Xie, Tu, "Holistically-nested edge detection", 2015; Wang et al., "Collaborative distillation", 2020.

mod kind;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::ops::trainable::relu_backward;
use crate::ops::{Conv2d, Pooling, pool2, pool2_backward, reflect_pad, reflect_pad_backward};
pub use kind::Kind;

/// One layer of the chain.
#[derive(Debug)]
enum Step {
    /// A 3x3 convolution and its rectifier.
    Conv(Conv2d),
    /// A pool by two.
    Pool,
}

/// Something that can be looked at: the result of a step, or of a head on it.
#[derive(Debug)]
struct Tap {
    name: String,
    step: usize,
    head: Option<Conv2d>,
}

#[derive(Debug)]
struct Chain {
    kind: Kind,
    pooling: Pooling,
    device: Device,
    preparation: Conv2d,
    steps: Vec<Step>,
    taps: Vec<Tap>,
}

/// A frozen perceptual network. Clones share the weights.
#[derive(Debug, Clone)]
pub struct Backbone {
    chain: Arc<Chain>,
}

/// What a picture made the layers answer, and what the gradient needs of it.
#[derive(Debug, Clone)]
pub struct Activations {
    /// The result of every step up to the deepest one asked for.
    outputs: Vec<Tensor>,
    /// The places in the chain's taps of what was asked for.
    asked: Vec<usize>,
    taps: Vec<Tensor>,
}

impl Activations {
    /// The features `[batch, channels, height, width]` of the layers asked for, in that order.
    pub fn taps(&self) -> &[Tensor] {
        &self.taps
    }
}

impl Backbone {
    /// Loads a network of a known kind, as deep as the file goes and as wide as its tensors are.
    ///
    /// # Errors
    /// When the first layer is missing or shapes do not fit together.
    pub fn new(kind: Kind, pooling: Pooling, vb: VarBuilder<'_>) -> Result<Self> {
        let vb = vb.set_dtype(DType::F32);
        let names = kind.names(&vb);
        let (weight, bias) = kind.preparation(&vb, vb.device())?;
        let preparation = Conv2d::from_tensors(weight, Some(bias), 1, 0);
        let padding = usize::from(!kind.mirrors());
        let (mut steps, mut taps) = (Vec::new(), Vec::new());
        let (mut channels, mut before) = (3, 0);
        'blocks: for (block, convolutions) in kind.blocks().into_iter().enumerate() {
            let block = block + 1;
            for index in 1..=convolutions {
                let name = names.conv(block, index, before);
                if before > 0 && !vb.contains_tensor(&format!("{name}.weight")) {
                    // A file may hold only the layers that somebody needed.
                    break 'blocks;
                }
                if index == 1 && block > 1 {
                    steps.push(Step::Pool);
                }
                let (conv, outputs) = convolution(&vb, &name, channels, 3, padding)?;
                steps.push(Step::Conv(conv));
                let step = steps.len() - 1;
                if matches!(kind, Kind::Distilled(_)) {
                    taps.push(Tap { name: format!("narrow{block}_{index}"), step, head: None });
                    if index == 1 {
                        let (head, _) = convolution(&vb, &format!("{name}_aux"), outputs, 1, 0)?;
                        taps.push(Tap { name: format!("relu{block}_1"), step, head: Some(head) });
                    }
                } else {
                    taps.push(Tap { name: format!("relu{block}_{index}"), step, head: None });
                }
                (channels, before) = (outputs, before + 1);
            }
        }
        let device = vb.device().clone();
        Ok(Self { chain: Arc::new(Chain { kind, pooling, device, preparation, steps, taps }) })
    }

    /// Loads whatever perceptual network is in a file: [`Kind::detect`], [`Kind::told_by_weights`] and [`Self::new`] in one.
    ///
    /// # Errors
    /// When there is none, or it is broken.
    pub fn open(pooling: Pooling, vb: VarBuilder<'_>) -> Result<Self> {
        let vb = vb.set_dtype(DType::F32);
        let shape = |name: &str| {
            // A missing tensor is an answer; reading a handful of them costs nothing beside loading the net.
            vb.contains_tensor(name)
                .then(|| vb.get_unchecked(name))
                .and_then(Result::ok)
                .map(|tensor| tensor.dims().to_vec())
        };
        let kind = Kind::detect(shape).ok_or_else(Kind::missing)?;
        let kind = kind.told_by_weights(&vb)?;
        Self::new(kind, pooling, vb)
    }

    /// Whose weights these are.
    pub fn kind(&self) -> Kind {
        self.chain.kind
    }

    /// What the pools take of their windows.
    pub fn pooling(&self) -> Pooling {
        self.chain.pooling
    }

    /// The layers that can be looked at, in order: `relu1_1`, `relu1_2`, ..
    ///
    /// In distilled networks those are `narrow1_1`, `narrow1_2`, .. and, at the start of each block, the head's `relu1_1`,
    /// `relu2_1`, .., which has VGG-19's width and stands for its layer of that name.
    pub fn layers(&self) -> Vec<&str> {
        self.chain.taps.iter().map(|tap| tap.name.as_str()).collect()
    }

    /// The features of a picture `[batch, 3, height, width]`, RGB from 0 to 1, at the layers named. Nothing beyond the
    /// deepest of them is computed. Keeps what [`Self::backward`] needs.
    ///
    /// # Errors
    /// When a layer is unknown or the picture too small for one.
    pub fn forward(&self, image: &Tensor, layers: &[&str]) -> Result<Activations> {
        self.run(image, layers, true)
    }

    /// The features alone: each step is forgotten once it has been used, which is what targets and measurements want.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn features(&self, image: &Tensor, layers: &[&str]) -> Result<Vec<Tensor>> {
        Ok(self.run(image, layers, false)?.taps)
    }

    fn run(&self, image: &Tensor, layers: &[&str], keep: bool) -> Result<Activations> {
        let chain = &*self.chain;
        let asked = layers.iter().map(|name| self.find(name)).collect::<Result<Vec<_>>>()?;
        let Some(&deepest) = asked.iter().max_by_key(|&&tap| chain.taps[tap].step) else {
            return Err(Error::usage("layers", "none is named"));
        };
        self.check(image, &chain.taps[deepest])?;
        let mut found: Vec<Option<Tensor>> = vec![None; asked.len()];
        let mut outputs = Vec::new();
        let image = image.to_device(self.device())?.to_dtype(DType::F32)?.detach();
        let mut xs = chain.preparation.forward(&image)?;
        for (number, step) in chain.steps[..=chain.taps[deepest].step].iter().enumerate() {
            xs = match step {
                Step::Pool => pool2(&xs, chain.pooling, chain.kind.pools_up())?,
                Step::Conv(conv) if chain.kind.mirrors() => conv.forward_relu(&reflect_pad(&xs, 1)?)?,
                Step::Conv(conv) => conv.forward_relu(&xs)?,
            };
            for (&tap, found) in asked.iter().zip(&mut found) {
                let tap = &chain.taps[tap];
                if tap.step == number {
                    *found = Some(match &tap.head {
                        Some(head) => head.forward_relu(&xs)?,
                        None => xs.clone(),
                    });
                }
            }
            if keep {
                outputs.push(xs.clone());
            }
        }
        Ok(Activations { outputs, asked, taps: found.into_iter().flatten().collect() })
    }

    /// The gradient to the picture, given the gradients to the layers that `activations` were asked for, in their order;
    /// `None` stands for a layer that takes no part.
    ///
    /// # Errors
    /// When a gradient has not the shape of its layer.
    pub fn backward(&self, activations: &Activations, gradients: &[Option<Tensor>]) -> Result<Tensor> {
        let chain = &*self.chain;
        let wrong = |reason: String| Error::usage("gradients", reason);
        if gradients.len() != activations.asked.len() || activations.outputs.is_empty() {
            let (given, asked) = (gradients.len(), activations.asked.len());
            return Err(wrong(format!("{given} are given for {asked} layers")));
        }
        let mut carried: Option<Tensor> = None;
        for number in (0..activations.outputs.len()).rev() {
            let out = &activations.outputs[number];
            let asked = activations.asked.iter().zip(&activations.taps).zip(gradients);
            for ((&tap, features), gradient) in asked {
                let tap = &chain.taps[tap];
                let Some(gradient) = gradient.as_ref().filter(|_| tap.step == number) else { continue };
                if gradient.dims() != features.dims() {
                    let (given, asked) = (gradient.dims(), features.dims());
                    return Err(wrong(format!("{given:?} for {} of {asked:?}", tap.name)));
                }
                let gradient = match &tap.head {
                    Some(head) => head.backward(&relu_backward(features, gradient)?)?,
                    None => gradient.clone(),
                };
                carried = Some(match carried {
                    Some(carried) => (carried + gradient)?,
                    None => gradient,
                });
            }
            let Some(gradient) = carried else { continue };
            carried = Some(match &chain.steps[number] {
                Step::Pool => {
                    let xs = &activations.outputs[number - 1];
                    pool2_backward(xs, out, &gradient, chain.pooling, chain.kind.pools_up())?
                }
                Step::Conv(conv) => {
                    let gradient = conv.backward(&relu_backward(out, &gradient)?)?;
                    if chain.kind.mirrors() { reflect_pad_backward(&gradient, 1)? } else { gradient }
                }
            });
        }
        match carried {
            Some(gradient) => chain.preparation.backward(&gradient),
            None => {
                let (batch, _, height, width) = activations.outputs[0].dims4()?;
                Ok(Tensor::zeros((batch, 3, height, width), DType::F32, self.device())?)
            }
        }
    }

    /// How many pixels across one value of a layer sees.
    ///
    /// # Errors
    /// When the layer is unknown.
    pub fn sight(&self, layer: &str) -> Result<usize> {
        let step = self.chain.taps[self.find(layer)?].step;
        let mut sight = (1, 1);
        for step in &self.chain.steps[..=step] {
            let (seen, apart) = sight;
            sight = match step {
                Step::Conv(_) => (seen + 2 * apart, apart),
                Step::Pool => (seen + apart, 2 * apart),
            };
        }
        Ok(sight.0)
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.chain.device
    }

    fn find(&self, name: &str) -> Result<usize> {
        self.chain.taps.iter().position(|tap| tap.name == name).ok_or_else(|| {
            Error::usage("layer", format!("`{name}` is not one of this network's"))
                .with_hint(format!("it has {}", self.layers().join(", ")))
        })
    }

    /// Refuses pictures that have nothing left at a layer.
    fn check(&self, image: &Tensor, deepest: &Tap) -> Result<()> {
        let (_, channels, height, width) = image.dims4()?;
        if channels != 3 {
            return Err(Error::usage("picture", format!("has {channels} channels instead of 3")));
        }
        let side = height.min(width);
        if self.survives(side, deepest.step) {
            return Ok(());
        }
        let least = self.least(deepest);
        let reason = format!("{width} x {height} pixels are too few for {}", deepest.name);
        Err(Error::usage("picture", reason).with_hint(format!("it needs at least {least} a side")))
    }

    /// The smallest side of a picture that something is left of at a layer, in pixels.
    ///
    /// # Errors
    /// When the layer is unknown.
    pub fn least_side(&self, layer: &str) -> Result<usize> {
        Ok(self.least(&self.chain.taps[self.find(layer)?]))
    }

    fn least(&self, deepest: &Tap) -> usize {
        (1..=64).find(|&side| self.survives(side, deepest.step)).unwrap_or(64)
    }

    fn survives(&self, mut side: usize, deepest: usize) -> bool {
        let chain = &*self.chain;
        // A mirror needs a second line.
        let least = if chain.kind.mirrors() { 2 } else { 1 };
        chain.steps[..=deepest].iter().all(|step| match step {
            Step::Pool => {
                side = if chain.kind.pools_up() { side.div_ceil(2) } else { side / 2 };
                side >= 1
            }
            Step::Conv(_) => side >= least,
        })
    }
}

/// Loads `name.weight [out, in, kernel, kernel]` and `name.bias [out]`, and says how many `out` are.
fn convolution(
    vb: &VarBuilder<'_>,
    name: &str,
    inputs: usize,
    kernel: usize,
    padding: usize,
) -> Result<(Conv2d, usize)> {
    let vb = vb.pp(name);
    let found = vb.get_unchecked("weight")?;
    // The width is the file's business, the rest is not.
    let outputs = found.dims().first().copied().unwrap_or(0).max(1);
    let shape = [outputs, inputs, kernel, kernel];
    let weight = if found.dims() == shape { found } else { vb.get(shape.as_slice(), "weight")? };
    let bias = vb.get(outputs, "bias")?;
    Ok((Conv2d::from_tensors(weight, Some(bias), 1, padding), outputs))
}
