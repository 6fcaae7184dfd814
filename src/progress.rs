//! The progress record that long work hands to its caller. The library itself never prints.

use crate::error::Result;

/// What is being worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Bytes coming from the Hub.
    Download,
    /// Hashing a file.
    Verify,
    /// Reading weights into memory.
    Load,
    /// Prompts, style and structure images through their encoders.
    Encode,
    /// Denoising steps.
    Sample,
    /// Latents to pixels.
    Decode,
    /// Steps of a training.
    Train,
    /// A photo through a style net, or the steps of its optimisation.
    Stylize,
    /// Pictures through the metrics.
    Measure,
    /// Files of a report.
    Report,
}

/// One report from long work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being worked on.
    pub stage: Stage,
    /// How much is done, in units of the stage (bytes, nets, steps, tiles).
    pub done: u64,
    /// How much there is in all.
    pub total: u64,
    /// The file, net or picture at hand.
    pub label: String,
}

/// Receives progress. Returning an error (usually [`crate::Error::Interrupted`]) stops the work at this point.
pub type OnProgress<'a> = dyn FnMut(&Progress) -> Result<()> + 'a;

/// A receiver that ignores everything.
///
/// # Errors
/// Never.
pub fn silent(_: &Progress) -> Result<()> {
    Ok(())
}
