//! `impasto presets`: which there are and what they hold.

use super::Printer;
use anyhow::Context;
use impasto::pipeline::preset::Preset;

/// Arguments of `impasto presets`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the presets
    List {
        /// Print one line of JSON per preset
        #[arg(long)]
        json: bool,
    },
    /// Print a preset with everything it inherits
    Show {
        /// A preset's name, or a .toml file
        preset: String,
    },
}

/// Runs the command.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    match &args.command {
        Command::List { json } => {
            let width = Preset::names().map(str::len).max().unwrap_or(0);
            for name in Preset::names() {
                let preset = Preset::find(name)?;
                if *json {
                    printer
                        .json(&serde_json::json!({ "name": name, "summary": preset.summary, "needs": preset.needs }))?;
                } else {
                    printer.line(format_args!("{name:width$}  {}", preset.summary))?;
                }
            }
        }
        Command::Show { preset } => {
            let preset = Preset { extends: None, ..Preset::find(preset)? };
            let text = toml::to_string(&preset).with_context(|| format!("cannot print the preset {}", preset.name))?;
            printer.bytes(text.as_bytes())?;
        }
    }
    Ok(())
}
