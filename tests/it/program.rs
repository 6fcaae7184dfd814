//! Running the program as a user would, and places to do it in.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// One run of the program.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) seconds: f64,
}

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
    // No test may reach for the network.
    command.env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    command
}

pub(crate) fn finish(mut command: Command) -> Run {
    let started = Instant::now();
    let Output { status, stdout, stderr } = command.output().unwrap();
    Run {
        code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        seconds: started.elapsed().as_secs_f64(),
    }
}

pub(crate) fn run(args: &[&str]) -> Run {
    let mut command = program();
    command.args(args);
    finish(command)
}

/// A folder for one test, and the paths in it.
pub(crate) struct Place(pub(crate) tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn tiny(name: &str) -> String {
    super::fixture("tiny").join(name).to_str().unwrap().to_owned()
}

/// A picture with something in it.
pub(crate) fn picture(path: &Path, width: u32, height: u32) {
    let pixels = ::image::RgbImage::from_fn(width, height, |x, y| {
        let inside = (x / 16 + y / 12) % 2 == 0;
        ::image::Rgb([(x * 3) as u8, (y * 5) as u8, if inside { 220 } else { 30 }])
    });
    pixels.save(path).unwrap();
}

/// Refused: one line that begins with `error: ` and names `subject`, quickly, with nothing written.
pub(crate) fn refused(run: &Run, code: i32, subject: &str) {
    let said: Vec<_> = run.stderr.lines().collect();
    assert_eq!(run.code, Some(code), "{}", run.stderr);
    assert!(said[0].starts_with("error: "), "{}", run.stderr);
    assert!(said[0].contains(subject), "`{subject}` is not named: {}", run.stderr);
    assert!(said.len() == 1 || (said.len() == 2 && said[1].starts_with("hint: ")), "{}", run.stderr);
    assert!(run.stdout.is_empty(), "{}", run.stdout);
    assert!(run.seconds < 20.0, "took {:.1} s", run.seconds);
}
