//! The command line: what the user may type, and one file per command.
//!
//! Commands take plain typed arguments and a [`Printer`]; they return errors and never print them.

mod batch;
mod bench;
mod compare;
mod completions;
mod control;
mod doctor;
mod generate;
mod inspect;
mod interrupt;
mod loaded;
mod machine;
mod metrics;
mod nets;
mod presets;
mod printer;
mod stylize;
mod train;
mod weighted;
mod weights;
mod writable;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use impasto::Error;
use impasto::pipeline::preset::{DEFAULT, Preset};
use printer::Printer;
use std::ffi::OsString;
use std::process::ExitCode;

/// Paint from a prompt, a style image and a structure image.
#[derive(Debug, Parser)]
#[command(name = "impasto", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Print results and errors only
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Paint a picture from a prompt, a style picture and a structure picture
    Generate(Box<generate::Args>),
    /// Repaint photos in the style of a painting
    Stylize(Box<stylize::Args>),
    /// Compare methods on the same photos and paintings, in pictures and numbers
    Compare(Box<compare::Args>),
    /// Paint a file of jobs, overnight or on many machines
    Batch(Box<batch::Args>),
    /// Write the control map of a picture
    Control(control::Args),
    /// Show what a network keeps of a picture at each layer
    Inspect(inspect::Args),
    /// Measure what a painted picture kept of the photo and took on of the painting
    Metrics(Box<metrics::Args>),
    /// List and show presets
    Presets(presets::Args),
    /// Tell what this program and this machine have, and what to do next
    Doctor(doctor::Args),
    /// Time the nets on this machine
    Bench(Box<bench::Args>),
    /// Train a net of your own
    Train(train::Args),
    /// Fetch, check and find models
    Weights(weights::Args),
    /// Print the script that teaches a shell to complete `impasto`
    Completions(completions::Args),
    /// Print the manual page
    Man(completions::ManArgs),
}

/// Why there is nothing to run: help was asked for, or the line was wrong.
pub(crate) struct Stop(clap::Error);

/// Reads the command line.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Command, Printer), Stop> {
    let matches = command().try_get_matches_from(args).map_err(Stop)?;
    let cli = Cli::from_arg_matches(&matches).map_err(Stop)?;
    Ok((cli.command, Printer::new(cli.quiet)))
}

/// The whole command line as clap knows it. The defaults in the help texts are the presets': they stand nowhere else.
pub(crate) fn command() -> clap::Command {
    let generate = defaults(DEFAULT);
    let stylize = defaults(stylize::PRESET);
    Cli::command()
        .mut_subcommand("generate", |command| command.mut_args(|arg| with_default(arg, &generate)))
        .mut_subcommand("stylize", |command| {
            command.mut_args(|arg| stylize::in_its_section(with_default(arg, &stylize)))
        })
}

fn defaults(preset: &str) -> Vec<(String, String)> {
    Preset::find(preset).map(|preset| preset.settings.named()).unwrap_or_default()
}

fn with_default(arg: clap::Arg, defaults: &[(String, String)]) -> clap::Arg {
    let name = arg.get_long().unwrap_or_default();
    match (defaults.iter().find(|(setting, _)| setting == name), arg.get_help()) {
        (Some((_, value)), Some(help)) if !value.is_empty() => {
            let help = format!("{help} [default: {value}]");
            arg.help(help)
        }
        _ => arg,
    }
}

/// Sets how many CPU threads compute.
pub(crate) fn set_threads(threads: Option<u16>) -> anyhow::Result<()> {
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global()?;
    }
    Ok(())
}

/// Runs a command.
pub(crate) fn run(command: Command, printer: &Printer) -> anyhow::Result<()> {
    interrupt::listen();
    match command {
        Command::Generate(args) => generate::run(&args, printer),
        Command::Stylize(args) => stylize::run(&args, printer),
        Command::Compare(args) => compare::run(&args, printer),
        Command::Batch(args) => batch::run(&args, printer),
        Command::Control(args) => control::run(&args, printer),
        Command::Inspect(args) => inspect::run(&args, printer),
        Command::Metrics(args) => metrics::run(&args, printer),
        Command::Presets(args) => presets::run(&args, printer),
        Command::Doctor(args) => doctor::run(&args, printer),
        Command::Bench(args) => bench::run(&args, printer),
        Command::Train(args) => train::run(&args, printer),
        Command::Weights(args) => weights::run(&args, printer),
        Command::Completions(args) => completions::run(&args, printer),
        Command::Man(args) => completions::man(&args, printer),
    }
}

/// Prints an error once, with its hint, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error, printer: &Printer) -> ExitCode {
    if error.is::<printer::Closed>() {
        return ExitCode::SUCCESS;
    }
    let ours = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    printer.error(format_args!("{error:#}"), ours.and_then(Error::hint));
    match ours {
        Some(Error::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Some(error) => ExitCode::from(error.exit_code()),
        None => ExitCode::FAILURE,
    }
}

impl Stop {
    /// Prints help where it was asked for, or one line that says what is wrong with the command line.
    pub(crate) fn report(&self) -> ExitCode {
        let printer = Printer::new(false);
        match self.0.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let text = self.0.render();
                let shown = if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
                    printer.bytes(text.ansi().to_string().as_bytes())
                } else {
                    printer.bytes(text.to_string().as_bytes())
                };
                if shown.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                printer.error("no command given", Some("`impasto --help` lists the commands"));
                ExitCode::from(2)
            }
            _ => {
                let (line, hint) = self.one_line();
                printer.error(line, Some(&hint));
                ExitCode::from(2)
            }
        }
    }

    // Clap's message is a paragraph, its usage another; a person who mistyped a flag needs the first in one line.
    fn one_line(&self) -> (String, String) {
        if self.0.kind() == ErrorKind::InvalidUtf8 {
            return (not_unicode(std::env::args_os()), "write the text in UTF-8".to_owned());
        }
        let text = self.0.render().to_string();
        let mut message = String::new();
        for line in text.lines().take_while(|line| !line.is_empty()) {
            if !message.is_empty() {
                message.push(' ');
            }
            message.push_str(line.trim());
        }
        let message = message.strip_prefix("error: ").unwrap_or(&message);
        // The library's own errors name their flag, which clap has named already.
        let message = match message.split_once("': --").and_then(|(head, tail)| Some((head, tail.split_once(": ")?.1)))
        {
            Some((head, reason)) => format!("{head}': {reason}"),
            None => message.to_owned(),
        };
        let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
        let hint =
            tip.unwrap_or("`impasto --help` lists the commands, `impasto COMMAND --help` their flags").to_owned();
        (message, hint)
    }
}

// Names the argument that is not text, and the flag it was given to.
fn not_unicode(args: impl IntoIterator<Item = OsString>) -> String {
    let mut before = String::new();
    for arg in args {
        match arg.to_str() {
            Some(text) => text.clone_into(&mut before),
            None if before.starts_with('-') => return format!("{before}: `{}` is not UTF-8", arg.to_string_lossy()),
            None => return format!("`{}` is not UTF-8", arg.to_string_lossy()),
        }
    }
    "an argument is not UTF-8".to_owned()
}
