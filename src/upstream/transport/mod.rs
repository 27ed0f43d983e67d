//! One HTTP request to one URL: connecting, TLS, proxies, and which addresses may be connected to.

pub(crate) mod address;
pub(crate) mod connect;
pub(crate) mod dial;
pub(crate) mod network;
