//! The settings of a picture, written once: the flags of `impasto generate`, the `[settings]` of a preset and the
//! settings in a recipe are this one struct, laid over each other.
//!
//! Must not decide anything: a value left out stays `None` until a layer below fills it in.

use crate::control::{Kind, Preprocessor};
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Sigmas;
use crate::error::{Error, Result};
use crate::nets::ip_adapter::BlockScales;
use crate::pipeline::fast::Fast;
use crate::pipeline::request::Request;
use serde::{Deserialize, Serialize};

/// A control's name, as the user writes it.
pub fn control_name(kind: Kind) -> String {
    clap::ValueEnum::to_possible_value(&kind).map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Canny's thresholds as everybody's guides have them.
const CANNY: (f64, f64) = (100.0, 200.0);

/// Everything that decides a picture beside prompt, pictures, nets and seed. `None`: the layer below decides.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// What the picture must not show
    #[arg(long, value_name = "TEXT", help_heading = "Prompt")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative: Option<String>,
    /// Leave out the last N layers of the text encoder, as diffusers counts (A1111's "Clip skip" is one more)
    #[arg(long, value_name = "N", help_heading = "Prompt")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,

    /// How strongly the style pictures act; 1 is the strength the adapter was trained at
    #[arg(long, value_name = "F", help_heading = "Style")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style_scale: Option<f64>,
    /// Where in the UNet the style acts: full, style, composition, style+composition, or NAME=F,... by block
    #[arg(long, value_name = "BLOCKS", help_heading = "Style")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style_blocks: Option<BlockScales>,

    /// How the structure picture becomes a control map
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Structure")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<Kind>,
    /// Canny: gradients below this are no edge
    #[arg(long, value_name = "F", help_heading = "Structure")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canny_low: Option<f64>,
    /// Canny: gradients above this are an edge
    #[arg(long, value_name = "F", help_heading = "Structure")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canny_high: Option<f64>,
    /// How strongly the ControlNet acts
    #[arg(long, value_name = "F", help_heading = "Structure")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_scale: Option<f64>,
    /// The part of the steps after which the ControlNet begins, 0 to 1
    #[arg(long, value_name = "F", help_heading = "Structure")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_start: Option<f64>,
    /// The part of the steps after which the ControlNet ends, 0 to 1
    #[arg(long, value_name = "F", help_heading = "Structure")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_end: Option<f64>,

    /// How much of the init picture is painted anew: above 0, up to 1
    #[arg(long, value_name = "F", help_heading = "Repainting")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,

    /// The sampler
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<Sampler>,
    /// The spacing of the noise levels
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmas: Option<Sigmas>,
    /// The number of steps
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// How strongly the prompt is followed (classifier-free guidance); 1 and below is without guidance, at half the work
    #[arg(long, value_name = "F", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    /// The part of the steps after which guidance begins, 0 to 1
    #[arg(long, value_name = "F", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_start: Option<f64>,
    /// The part of the steps after which guidance ends, 0 to 1: a step without it is half the work
    #[arg(long, value_name = "F", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_end: Option<f64>,
    /// Sooner, for a picture that is like the exact one: deepcache, deepcache=N (the whole net at every Nth step), none
    #[arg(long, value_name = "HOW", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast: Option<Fast>,
    /// What the model predicts, where its files do not say: epsilon, v_prediction or sample
    #[arg(long, value_name = "TYPE", help_heading = "Sampling", value_parser = ["epsilon", "v_prediction", "sample"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_type: Option<String>,

    /// The picture's width, a multiple of 8 [default: the init picture's, else the model's own]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// The picture's height, a multiple of 8 [default: the init picture's, else the model's own]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
}

impl Settings {
    /// These settings, with what they leave out filled in from `below`.
    ///
    /// A layer that names a sampler means that sampler's own noise levels, unless it names those too: the layer below
    /// chose its levels for another sampler.
    #[must_use]
    pub fn over(self, below: &Self) -> Self {
        let sigmas = self.sigmas.or(if self.sampler.is_some() { Some(Sigmas::Default) } else { below.sigmas });
        Self {
            negative: self.negative.or_else(|| below.negative.clone()),
            clip_skip: self.clip_skip.or(below.clip_skip),
            style_scale: self.style_scale.or(below.style_scale),
            style_blocks: self.style_blocks.or_else(|| below.style_blocks.clone()),
            control: self.control.or(below.control),
            canny_low: self.canny_low.or(below.canny_low),
            canny_high: self.canny_high.or(below.canny_high),
            control_scale: self.control_scale.or(below.control_scale),
            control_start: self.control_start.or(below.control_start),
            control_end: self.control_end.or(below.control_end),
            strength: self.strength.or(below.strength),
            sampler: self.sampler.or(below.sampler),
            sigmas,
            steps: self.steps.or(below.steps),
            guidance: self.guidance.or(below.guidance),
            guidance_start: self.guidance_start.or(below.guidance_start),
            guidance_end: self.guidance_end.or(below.guidance_end),
            fast: self.fast.or(below.fast),
            prediction_type: self.prediction_type.or_else(|| below.prediction_type.clone()),
            width: self.width.or(below.width),
            height: self.height.or(below.height),
        }
    }

    /// The settings as names and values, in the words of the flags; those left out are not in it.
    pub fn named(&self) -> Vec<(String, String)> {
        let Ok(serde_json::Value::Object(map)) = serde_json::to_value(self) else { return Vec::new() };
        map.into_iter()
            .map(|(name, value)| match value {
                serde_json::Value::String(text) => (name, text),
                other => (name, other.to_string()),
            })
            .collect()
    }

    /// Puts every setting that is there into a request. A depth map needs an estimator besides: see
    /// [`crate::pipeline::open_depth`].
    ///
    /// # Errors
    /// When Canny's thresholds contradict each other.
    pub fn apply(&self, request: &mut Request) -> Result<()> {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(value) = from {
                *to = value.clone();
            }
        }
        set(&mut request.negative, &self.negative);
        set(&mut request.style_scale, &self.style_scale);
        set(&mut request.style_blocks, &self.style_blocks);
        set(&mut request.control_scale, &self.control_scale);
        set(&mut request.control_start, &self.control_start);
        set(&mut request.control_end, &self.control_end);
        set(&mut request.strength, &self.strength);
        set(&mut request.sampler, &self.sampler);
        set(&mut request.sigmas, &self.sigmas);
        set(&mut request.steps, &self.steps);
        set(&mut request.guidance, &self.guidance);
        set(&mut request.guidance_start, &self.guidance_start);
        set(&mut request.guidance_end, &self.guidance_end);
        set(&mut request.fast, &self.fast);
        request.clip_skip = self.clip_skip.or(request.clip_skip);
        request.width = self.width.or(request.width);
        request.height = self.height.or(request.height);
        if let Some(control) = self.control {
            request.control = self.preprocessor(control)?;
        }
        Ok(())
    }

    /// Checks every value that is there against the range it may have.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag.
    pub fn check(&self) -> Result<()> {
        let mut request = Request::default();
        self.apply(&mut request)?;
        request.validate()
    }

    fn preprocessor(&self, control: Kind) -> Result<Preprocessor> {
        match control {
            Kind::None => Ok(Preprocessor::None),
            Kind::Canny => {
                let (low, high) = (self.canny_low.unwrap_or(CANNY.0), self.canny_high.unwrap_or(CANNY.1));
                for (flag, value) in [("--canny-low", low), ("--canny-high", high)] {
                    if !(0.0..=10_000.0).contains(&value) {
                        return Err(Error::usage(flag, format!("{value} is not between 0 and 10000")));
                    }
                }
                if low > high {
                    return Err(Error::usage("--canny-low", format!("{low} is above --canny-high {high}")));
                }
                Ok(Preprocessor::Canny { low, high })
            }
            // Whoever has the estimator puts it in.
            Kind::Depth => Ok(Preprocessor::None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_fills_in_only_what_is_left_out() {
        let flags = Settings { steps: Some(3), ..Settings::default() };
        let preset = Settings { steps: Some(20), guidance: Some(7.0), ..Settings::default() };
        let both = flags.over(&preset);
        assert_eq!((both.steps, both.guidance, both.width), (Some(3), Some(7.0), None));
    }

    #[test]
    fn another_sampler_does_not_inherit_noise_levels() {
        let preset = Settings { sampler: Some(Sampler::Dpmpp2m), sigmas: Some(Sigmas::Karras), ..Settings::default() };
        let flags = Settings { sampler: Some(Sampler::Ddim), ..Settings::default() };
        assert_eq!(flags.over(&preset).sigmas, Some(Sigmas::Default));
        assert_eq!(Settings::default().over(&preset).sigmas, Some(Sigmas::Karras));
    }

    #[test]
    fn values_out_of_range_are_refused_by_the_flags_name() {
        let wrong = [
            (Settings { steps: Some(0), ..Settings::default() }, "--steps"),
            (Settings { steps: Some(100_000), ..Settings::default() }, "--steps"),
            (Settings { width: Some(0), ..Settings::default() }, "--width"),
            (Settings { width: Some(7), ..Settings::default() }, "--width"),
            (Settings { height: Some(100_000), ..Settings::default() }, "--height"),
            (Settings { strength: Some(2.0), ..Settings::default() }, "--strength"),
            (Settings { strength: Some(0.0), ..Settings::default() }, "--strength"),
            (Settings { guidance: Some(f64::NAN), ..Settings::default() }, "--guidance"),
            (Settings { guidance: Some(f64::INFINITY), ..Settings::default() }, "--guidance"),
            (Settings { control_start: Some(0.8), control_end: Some(0.2), ..Settings::default() }, "--control-start"),
        ];
        for (settings, flag) in wrong {
            let error = settings.check().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.to_string().starts_with(flag), "{error}");
        }
    }

    #[test]
    fn canny_needs_its_thresholds_in_order() {
        let settings =
            Settings { control: Some(Kind::Canny), canny_low: Some(9.0), canny_high: Some(3.0), ..Settings::default() };
        assert!(settings.check().unwrap_err().to_string().contains("--canny-low"));
    }
}
