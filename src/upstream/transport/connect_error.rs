//! What it means that no response came: an error of hyper, of TLS or of the connector, as one of ours. Pure.

use std::error::Error as StdError;
use std::io;

use crate::support::authorities;
use crate::support::shortage::is_shortage;
use crate::upstream::error::{ConnectStage, Error, NodeLimit, cause, root_cause};
use crate::upstream::transport::dial::{AddressRefused, NameFailed, NameNotAsked};

/// What it means that no response came.
pub(super) fn error_of(host: &str, error: &(dyn StdError + 'static), connecting: bool) -> Error {
    let (host, why) = (host.to_owned(), root_cause(error));
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    if causes.any(|cause| cause.is::<NameNotAsked>()) {
        return Error::Overloaded { limit: NodeLimit::Names, host, why };
    }
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    // The host was not asked.
    if causes.any(|cause| cause.downcast_ref().is_some_and(is_shortage)) {
        return Error::Overloaded { limit: NodeLimit::Machine, host, why };
    }
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let tls = causes.find_map(tls_error);
    let why = match (tls.and_then(authorities::in_words), tls.and_then(authorities::remedy)) {
        (Some(words), _) => cause(&words),
        (None, Some(remedy)) => format!("{why}: {remedy}"),
        (None, None) => why,
    };
    Error::Unreachable { host, stage: stage_of(error, connecting), why }
}

fn stage_of(error: &(dyn StdError + 'static), connecting: bool) -> ConnectStage {
    let mut stage = if connecting { ConnectStage::Connect } else { ConnectStage::Head };
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<NameFailed>() {
            stage = ConnectStage::Dns;
        } else if error.is::<AddressRefused>() {
            stage = ConnectStage::Address;
        } else if let Some(error) = tls_error(error) {
            stage = stage_of_tls(error);
        }
        next = error.source();
    }
    stage
}

fn stage_of_tls(error: &rustls::Error) -> ConnectStage {
    match error {
        rustls::Error::InvalidCertificate(_) => ConnectStage::Certificate,
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => ConnectStage::NotTls,
        _ => ConnectStage::Tls,
    }
}

/// The error of TLS: `io::Error` hides what it wraps from `source`, and some are wrapped twice.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let inner = || error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.downcast_ref().or_else(|| tls_error(inner()?))
}

/// Whether the other side closed the connection before the head of an answer had come.
pub(super) fn is_closed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    error.is_incomplete_message()
        || cause.is_some_and(|cause| {
            matches!(
                cause.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    // Of TLS without its own word for the end.
                    | io::ErrorKind::UnexpectedEof
            )
        })
}
