//! The perceptual networks of [`crate::nets::vgg`] as judges of a training.

use candle_core::Tensor;

use super::loss::{Judge, Sight};
use crate::error::Result;
use crate::nets::vgg::{Activations, Backbone};

/// A backbone and the name it goes by in the record.
#[derive(Debug)]
pub struct BackboneJudge {
    backbone: Backbone,
    name: String,
}

impl BackboneJudge {
    /// Judges by `backbone`.
    pub fn new(backbone: Backbone, name: impl Into<String>) -> Self {
        Self { backbone, name: name.into() }
    }
}

impl Judge for BackboneJudge {
    fn layers(&self) -> Vec<String> {
        self.backbone.layers().into_iter().map(str::to_owned).collect()
    }

    fn look(&self, image: &Tensor, layers: &[&str]) -> Result<Box<dyn Sight>> {
        let activations = self.backbone.forward(image, layers)?;
        Ok(Box::new(BackboneSight { backbone: self.backbone.clone(), activations }))
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

struct BackboneSight {
    backbone: Backbone,
    activations: Activations,
}

impl Sight for BackboneSight {
    fn taps(&self) -> &[Tensor] {
        self.activations.taps()
    }

    fn backward(&self, gradients: &[Option<Tensor>]) -> Result<Tensor> {
        self.backbone.backward(&self.activations, gradients)
    }
}
