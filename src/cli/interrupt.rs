//! Ctrl-C: the first one asks the work to stop at its next step, the second one ends the process.

use impasto::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// The exit code of a stopped program, as shells know it: 128 + SIGINT.
pub(crate) const EXIT_CODE: u8 = 130;

/// From here on Ctrl-C (and a request to terminate) sets the flag that [`check`] reads.
pub(crate) fn listen() {
    // Where no handler can be set, Ctrl-C ends the process as it would have anyway; outputs are renamed into place, so
    // nothing half-written is left either way.
    let _ = ctrlc::set_handler(|| {
        if STOPPED.swap(true, Ordering::SeqCst) {
            #[expect(clippy::exit, reason = "the second Ctrl-C must not wait for the work")]
            std::process::exit(i32::from(EXIT_CODE));
        }
    });
}

/// Fails once Ctrl-C was pressed.
pub(crate) fn check() -> Result<()> {
    if STOPPED.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
}
