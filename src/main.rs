//! The `impasto` program: parse, run, say once what went wrong, exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped with Ctrl-C.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static MEMORY: impasto::ops::Recycler = impasto::ops::Recycler::new();

fn main() -> ExitCode {
    let (command, printer) = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(stop) => return stop.report(),
    };
    match cli::run(command, &printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error, &printer),
    }
}
