//! What can go wrong, said so that a person can act on it.
//!
//! Variants carry the facts (which file, which flag) and, where there is one, the user's next step as a hint.
//! Printing happens once, in the binary.

use std::path::{Path, PathBuf};

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything the library can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value asked for cannot be used: wrong on the caller's side. Exit code 2.
    #[error("{subject}: {reason}")]
    Usage {
        /// The flag, option or argument, as the user wrote it (`--steps`).
        subject: String,
        /// What is wrong with it.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A file or folder is there but is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The operating system refused to read or write.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason. Part of the message, so not the error's source too: a chain would print it twice.
        reason: std::io::Error,
    },
    /// Something is not reachable or refused by a server.
    #[error("{subject}: {reason}")]
    Remote {
        /// The repository and file asked for.
        subject: String,
        /// What the server or the network said.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The tensor library failed: out of memory, a shape that does not fit, a missing weight.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// A value the caller gave cannot be used.
    pub fn usage(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Usage { subject: subject.into(), reason: reason.into(), hint: None }
    }

    /// A file is not what it should be.
    pub fn file(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), reason: reason.into(), hint: None }
    }

    /// The system refused to read or write a file.
    pub fn io(path: impl AsRef<Path>, reason: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), reason }
    }

    /// A server or the network did not give what was asked for.
    pub fn remote(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Remote { subject: subject.into(), reason: reason.into(), hint: None }
    }

    /// Adds the user's next step to an error that can carry one.
    #[must_use]
    pub fn with_hint(mut self, next_step: impl Into<String>) -> Self {
        match &mut self {
            Self::Usage { hint, .. } | Self::File { hint, .. } | Self::Remote { hint, .. } => {
                *hint = Some(next_step.into());
            }
            Self::Io { .. } | Self::Interrupted | Self::Tensor(_) => {}
        }
        self
    }

    /// The user's next step, where there is one.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } | Self::File { hint, .. } | Self::Remote { hint, .. } => hint.as_deref(),
            Self::Io { .. } | Self::Interrupted | Self::Tensor(_) => None,
        }
    }

    /// The process exit code: 2 for wrong usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            _ => 1,
        }
    }
}
