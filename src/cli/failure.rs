//! Why a command ends with an error, and with which exit code.

use crate::support::causes::with_causes;

/// Why a command was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// It failed: exit code 1.
    Failed(String),
    /// Wrong usage or configuration: exit code 2.
    Usage(String),
    /// The store is of a format that this program does not know: exit code 3. Trying again does not help.
    StoreFormat(String),
    /// The process that read the output has ended, as `head` does: exit code 1, and nothing is said.
    ReaderGone,
}

impl Failure {
    /// It failed.
    pub(super) fn failed(why: impl ToString) -> Self {
        Self::Failed(why.to_string())
    }

    /// It failed, for the reason of this error and of what led to it.
    pub(super) fn caused(error: impl std::error::Error) -> Self {
        Self::Failed(with_causes(&error))
    }

    /// Wrong usage or configuration.
    pub(super) fn usage(why: impl ToString) -> Self {
        Self::Usage(why.to_string())
    }

    /// The exit code of the process.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::ReaderGone => 1,
            Self::Usage(_) => 2,
            Self::StoreFormat(_) => 3,
        }
    }

    /// The text for people.
    pub(super) fn message(&self) -> &str {
        match self {
            Self::Failed(why) | Self::Usage(why) | Self::StoreFormat(why) => why,
            Self::ReaderGone => "the output is not read any more",
        }
    }
}
