//! What an error of the crate object_store means, and what is said of its cause.
//!
//! Promises: of what a server sent nothing is said but its status and a code of the list here. The body of an answer
//! may hold anything: the names of objects, what was signed, a page of a proxy with what was sent to it.

use std::error::Error as Cause;
use std::io;

use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};
use rustix::io::Errno;

use crate::tier::error::{Error, ErrorKind};
use crate::tier::http::Trouble;

/// Bytes of the text of an error of this machine at most: it may name what a certificate says.
const WHY_MAX: usize = 200;
/// The error codes of S3 and of Azure that say to an operator what is wrong.
const CODES: [&str; 25] = [
    "AccessDenied",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "AuthorizationHeaderMalformed",
    "AuthorizationPermissionMismatch",
    "ContainerNotFound",
    "EntityTooSmall",
    "ExpiredToken",
    "InternalError",
    "InvalidAccessKeyId",
    "InvalidArgument",
    "InvalidBucketName",
    "InvalidPart",
    "InvalidRequest",
    "InvalidToken",
    "MethodNotAllowed",
    "NoSuchBucket",
    "NoSuchUpload",
    "NotImplemented",
    "PermanentRedirect",
    "QuotaExceeded",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SignatureDoesNotMatch",
    "SlowDown",
];

/// Why a request has no credential.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct NotAtHand(pub(super) Error);

/// What an error of the crate means.
pub(super) fn error_of(error: &StoreError) -> Error {
    let kind = match error {
        StoreError::NotFound { .. } => ErrorKind::NotFound,
        StoreError::AlreadyExists { .. } => ErrorKind::Exists,
        StoreError::Precondition { .. } | StoreError::NotModified { .. } => ErrorKind::Changed,
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => ErrorKind::Unsupported,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    let (mut why, mut next) = (None, Some(error as &(dyn Cause + 'static)));
    while let Some(cause) = next {
        if let Some(NotAtHand(error)) = cause.downcast_ref() {
            return error.clone();
        }
        if let Some(Trouble(status)) = cause.downcast_ref() {
            let kind =
                if matches!(status, 429 | 503) { ErrorKind::Throttled } else { ErrorKind::Unavailable };
            return Error::new(kind, format!("it answered {status}"));
        }
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            return Error::new(ErrorKind::Denied, "permission denied");
        }
        // The innermost one that says something.
        why = said(cause).or(why);
        next = cause.source();
    }
    let why = why.unwrap_or_else(|| "no cause that is known".to_owned());
    Error::new(kind_of(kind, &why), why)
}

/// The kind of an error, by what is said of it where that says more than the kind of the crate's error.
fn kind_of(kind: ErrorKind, why: &str) -> ErrorKind {
    let is = |part: &str| why.contains(part);
    match kind {
        // No object will ever be found there, and none be written.
        ErrorKind::NotFound if is("NoSuchBucket") || is("ContainerNotFound") => ErrorKind::Unavailable,
        // A condition, or an operation, that the store does not know.
        ErrorKind::Unavailable if is("answered 501") || is("NotImplemented") => ErrorKind::Unsupported,
        kind => kind,
    }
}

/// What an error means of an object that was to be created only if there is none: a file system without hard links
/// cannot do that.
pub(super) fn error_of_create(error: &StoreError) -> Error {
    let mut next = error.source();
    while let Some(cause) = next {
        let number =
            cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).map(Errno::from_raw_os_error);
        if matches!(number, Some(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK)) {
            return Error::new(ErrorKind::Unsupported, "the file system has no hard links");
        }
        next = cause.source();
    }
    error_of(error)
}

/// What is said of one cause, if it is this machine's own, or an answer.
fn said(cause: &(dyn Cause + 'static)) -> Option<String> {
    if let Some(io) = cause.downcast_ref::<io::Error>() {
        return Some(io.to_string().chars().take(WHY_MAX).collect());
    }
    if let Some(http) = cause.downcast_ref::<HttpError>() {
        let text = match http.kind() {
            HttpErrorKind::Connect => "no connection",
            HttpErrorKind::Timeout => "no answer in time",
            HttpErrorKind::Interrupted => "the connection ended",
            _ => "the request could not be sent, or its answer not be read",
        };
        return Some(text.to_owned());
    }
    answered(&cause.to_string())
}

/// What is said of an answer, whose error has this text.
fn answered(text: &str) -> Option<String> {
    let code = || {
        let (_, rest) = text.split_once("<Code>")?;
        let (code, _) = rest.split_once("</Code>")?;
        CODES.into_iter().find(|known| *known == code)
    };
    let answered = if let Some(rest) = text.strip_prefix("Server returned non-2xx status code: ") {
        let status: u16 = rest.get(..3)?.parse().ok()?;
        format!("it answered {status}")
    } else if text.starts_with("Server returned error response: ") {
        "it answered with an error".to_owned()
    } else {
        return None;
    };
    Some(match code() {
        Some(code) => format!("{answered} ({code})"),
        None => answered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the crate's error about an answer, which cannot be made outside it.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Answer(&'static str);

    #[derive(Debug, thiserror::Error)]
    #[error("Error performing GET https://s3.test/larder/key - {0}")]
    struct Request(#[source] Answer);

    #[test]
    fn nothing_of_what_a_server_sent_is_logged_but_its_status_and_a_known_code() {
        for (text, why) in [
            ("Server returned non-2xx status code: 403 Forbidden: the secret is hunter2", "it answered 403"),
            (
                "Server returned non-2xx status code: 403 Forbidden: <Error><Code>AccessDenied</Code><Message>hunter2</Message></Error>",
                "it answered 403 (AccessDenied)",
            ),
            ("Server returned non-2xx status code: 400 Bad Request: <Code>hunter2</Code>", "it answered 400"),
            (
                "Server returned error response: <Error><Code>InternalError</Code>hunter2</Error>",
                "it answered with an error (InternalError)",
            ),
            ("Got invalid list response: hunter2", "no cause that is known"),
        ] {
            let source = Box::new(Request(Answer(text)));
            let error = error_of(&StoreError::PermissionDenied { path: "larder/key".to_owned(), source });
            assert_eq!((error.kind, error.why.as_str()), (ErrorKind::Denied, why));
            assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("key"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_on_this_machine_is_said() {
        let source = Box::new(io::Error::from(io::ErrorKind::ConnectionRefused));
        let error = error_of(&StoreError::Generic { store: "S3", source });
        assert_eq!((error.kind, error.why.as_str()), (ErrorKind::Unavailable, "connection refused"));
        let source = Box::new(io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(error_of(&StoreError::Generic { store: "local", source }).kind, ErrorKind::Denied);
    }
}
