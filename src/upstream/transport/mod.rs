//! One HTTP request: names resolved, addresses checked, connections pooled, TLS, the wait for a response head.

pub(crate) mod address;
pub(crate) mod authority;
pub(crate) mod client;
pub(crate) mod configured;
pub(crate) mod connect;
mod connect_error;
mod connection;
mod connector;
pub(crate) mod dial;
mod last_addresses;
mod names;
pub(crate) mod network;
mod pool;
#[cfg(test)]
pub(crate) mod scripted;
pub(crate) mod send;
pub(crate) mod tls;
mod watched_body;
