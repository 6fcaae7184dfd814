//! `impasto completions SHELL` and `impasto man`: both written from the command line's own definition.

use super::Printer;
use clap_complete::Shell;

/// Arguments of `impasto completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// Arguments of `impasto man`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The command whose page to print; the program's own page when left out
    command: Option<String>,
}

/// Prints the completion script.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "impasto", &mut script);
    printer.bytes(&script)
}

/// Prints a manual page in roff.
pub(crate) fn man(args: &ManArgs, printer: &Printer) -> anyhow::Result<()> {
    let mut program = super::command();
    program.build();
    let page = match &args.command {
        None => clap_mangen::Man::new(program),
        Some(name) => {
            let command = program.find_subcommand(name).ok_or_else(|| {
                impasto::Error::usage("COMMAND", format!("there is no command `{name}`"))
                    .with_hint("`impasto --help` lists the commands")
            })?;
            clap_mangen::Man::new(command.clone()).title(format!("impasto-{name}"))
        }
    };
    let mut text = Vec::new();
    page.render(&mut text)?;
    printer.bytes(&text)
}
