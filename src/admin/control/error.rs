//! Why a command is answered with an error.

use http::StatusCode;

use crate::support::causes::with_causes;

/// An error as the client of the socket gets it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CommandError {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl CommandError {
    /// The command cannot be understood, or asks for what cannot be done.
    pub(super) fn bad(why: impl ToString) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: why.to_string() }
    }

    /// The daemon failed, for the reason of this error and of what led to it.
    pub(super) fn failed(error: impl std::error::Error) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: with_causes(&error) }
    }
}

/// Where a JSON text is wrong. What is there is not shown: it may be part of a secret.
pub(super) fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "an unexpected value",
        serde_json::error::Category::Eof => "an early end",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "no JSON",
    };
    format!("{what} at line {}, column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_a_command_shows_nothing_of_the_secret_in_it() {
        let error = serde_json::from_str::<Vec<u32>>(r#"[1, "hunter2"]"#).unwrap_err();
        assert_eq!(place(&error), "an unexpected value at line 1, column 13");
        assert!(error.to_string().contains("hunter2"), "serde shows it by itself");
        let short = serde_json::from_str::<Vec<u32>>("[1").unwrap_err();
        assert_eq!(place(&short), "an early end at line 1, column 2");
    }
}
