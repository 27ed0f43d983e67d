//! What an answer of a registry proves about rights, and how recently.

use std::time::Duration;

/// The right that a response with the resource proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProvedRight {
    /// The registry required no credential: everyone's.
    Public,
    /// The registry accepted the principal that was asked with.
    Principal {
        /// How old the token is that it accepted: the proof is no younger. Zero without a token.
        token_age: Duration,
    },
    /// Nothing: the response does not show that the registry has the resource.
    Nothing,
}
