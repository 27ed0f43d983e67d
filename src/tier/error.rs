//! What can go wrong at the shared tier. No text holds a credential, a query or a body.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::credentials::ClusterKeyError;

/// A request to the tier that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the shared tier {}: {why}", kind.sentence())]
pub struct Error {
    /// Whose fault it is.
    pub kind: ErrorKind,
    /// The cause, without the names of objects.
    pub why: String,
}

/// Why a request to the tier failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// There is no such object.
    NotFound,
    /// There is such an object already.
    Exists,
    /// The object was changed in the meantime.
    Changed,
    /// The store does not know the operation.
    Unsupported,
    /// The credential does not permit the operation.
    Denied,
    /// The platform has given no credential.
    NoCredential,
    /// The store limits requests.
    Throttled,
    /// No answer in time.
    TimedOut,
    /// It delivers slower than the registry does.
    Slower,
    /// Another node, whose object was waited for, did not write it in time.
    GaveUp,
    /// No connection, or a failure of the store.
    Unavailable,
}

impl ErrorKind {
    /// The value of the `kind` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Exists => "exists",
            Self::Changed => "changed",
            Self::Unsupported => "unsupported",
            Self::Denied => "denied",
            Self::NoCredential => "no_credential",
            Self::Throttled => "throttled",
            Self::TimedOut => "timed_out",
            Self::Slower => "slower",
            Self::GaveUp => "gave_up",
            Self::Unavailable => "unavailable",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::NotFound => "does not have the object",
            Self::Exists => "has the object already",
            Self::Changed => "has another version of the object",
            Self::Unsupported => "does not support the operation",
            Self::Denied => "refused access",
            Self::NoCredential => "cannot be asked without a credential",
            Self::Throttled => "limits requests",
            Self::TimedOut => "did not answer in time",
            Self::Slower => "takes longer than the registry",
            Self::GaveUp => "does not have the object yet",
            Self::Unavailable => "failed",
        }
    }

    /// Whether the tier as a whole is in trouble, and not this one object.
    pub(crate) fn is_trouble(self) -> bool {
        matches!(
            self,
            Self::Denied | Self::NoCredential | Self::Throttled | Self::TimedOut | Self::Unavailable
        )
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    /// Nothing, where there is no such object.
    pub(crate) fn absent<T>(self) -> Result<Option<T>, Self> {
        if self.kind == ErrorKind::NotFound { Ok(None) } else { Err(self) }
    }

    pub(crate) fn timed_out(wait: Duration) -> Self {
        Self::new(ErrorKind::TimedOut, format!("no answer within {wait:?}"))
    }
}

/// Why there is no tier although one is configured.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The program was built without it.
    #[error("this program was built without the feature \"tier\": [tier] url cannot be used")]
    NotCompiledIn,
    /// A file that the configuration names.
    #[error("cannot use {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        why: String,
    },
    /// The cluster's key.
    #[error(transparent)]
    Key(#[from] ClusterKeyError),
    /// The settings do not make a tier.
    #[error("the shared tier cannot be set up: {0}")]
    Settings(String),
}
