//! What reaches the terminal: results to stdout, notes, warnings, errors and progress to stderr.
//!
//! No command prints in any other way, so `--quiet`, `--json` and a closed pipe are dealt with here and nowhere else.
#![allow(clippy::print_stderr, reason = "this is the place that prints")]

use super::interrupt;
use impasto::Result;
use impasto::progress::{Progress, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

/// The reader of our output went away (`impasto presets list | head -1`): no error of ours, and nothing more to say.
#[derive(Debug, thiserror::Error)]
#[error("the output was closed")]
pub(crate) struct Closed;

/// Where words go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    quiet: bool,
}

impl Printer {
    /// With `quiet`, only results and errors are printed.
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// This printer without notes and progress, for output that a program reads.
    pub(crate) fn quieter(self, quiet: bool) -> Self {
        Self { quiet: self.quiet || quiet }
    }

    /// A line of the result.
    pub(crate) fn line(&self, text: impl Display) -> anyhow::Result<()> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// A result as one line of JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string(value)?)
    }

    /// A result as it is.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Closed.into()),
            Err(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
        }
    }

    /// Something worth knowing that is not the result.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet {
            self.stderr(format_args!("{text}"));
        }
    }

    /// Something that may not be what the user meant.
    pub(crate) fn warn(&self, text: impl Display) {
        if !self.quiet {
            self.stderr(format_args!("warning: {text}"));
        }
    }

    /// What went wrong, and the next step where there is one.
    pub(crate) fn error(&self, text: impl Display, hint: Option<&str>) {
        self.stderr(format_args!("error: {text}"));
        if let Some(hint) = hint {
            self.stderr(format_args!("hint: {hint}"));
        }
    }

    /// A progress bar on stderr; an invisible one when stderr is no terminal.
    pub(crate) fn bar(&self) -> Bar {
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Bar { bar: ProgressBar::with_draw_target(None, target), stage: None, label: String::new() }
    }

    // A closed stderr is no reason to stop the work.
    fn stderr(&self, text: std::fmt::Arguments<'_>) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

/// Shows the progress of one piece of work, and stops it when Ctrl-C was pressed.
pub(crate) struct Bar {
    bar: ProgressBar,
    stage: Option<Stage>,
    label: String,
}

impl Bar {
    /// Shows one report. Fails with [`impasto::Error::Interrupted`] once the user asked to stop.
    pub(crate) fn report(&mut self, progress: &Progress) -> Result<()> {
        interrupt::check()?;
        // A training's label is its loss, which changes while the work stays the same.
        let relabelled = self.label != progress.label && progress.stage != Stage::Train;
        if self.stage != Some(progress.stage) || relabelled {
            self.stage = Some(progress.stage);
            self.label.clone_from(&progress.label);
            self.bar.reset();
            self.bar.set_style(style(progress.stage));
            self.bar.set_prefix(verb(progress.stage));
            self.bar.set_message(progress.label.clone());
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
        if progress.stage == Stage::Train {
            self.bar.set_message(progress.label.clone());
        }
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
        Ok(())
    }

    /// Takes the bar off the screen.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn verb(stage: Stage) -> &'static str {
    match stage {
        Stage::Download => "downloading",
        Stage::Verify => "verifying",
        Stage::Load => "loading",
        Stage::Encode => "encoding",
        Stage::Sample | Stage::Stylize => "painting",
        Stage::Decode => "decoding",
        Stage::Train => "training",
        Stage::Measure => "measuring",
        Stage::Report => "writing",
    }
}

fn style(stage: Stage) -> ProgressStyle {
    let template = match stage {
        Stage::Download | Stage::Verify => {
            "{prefix:>11} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left {wide_msg}"
        }
        Stage::Sample => "{prefix:>11} [{bar:24}] {pos}/{len} {elapsed} gone, {eta} left",
        Stage::Stylize | Stage::Measure => "{prefix:>11} [{bar:24}] {pos}/{len} {elapsed} gone, {eta} left  {wide_msg}",
        Stage::Decode => "{prefix:>11} [{bar:24}] {pos}/{len}",
        Stage::Train => "{prefix:>11} [{bar:24}] {pos}/{len} {elapsed} gone, {eta} left {wide_msg}",
        Stage::Load | Stage::Encode | Stage::Report => "{prefix:>11} [{bar:24}] {pos}/{len} {wide_msg}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
