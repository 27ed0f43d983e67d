//! Integration tests: a whole daemon in this process, against a registry that makes faults on demand.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod admin;
#[cfg(feature = "kubernetes")]
mod api_server;
mod arch_alias;
mod bench_compare;
mod blobs;
mod broken_bodies;
#[cfg(feature = "tier")]
mod bucket;
mod client_auth;
mod commands;
mod conformance;
mod connections;
mod deleted;
mod described;
mod disk;
mod endpoints;
mod explain;
mod freshness;
mod frozen;
mod head;
mod http_forms;
mod lazy;
mod limits;
mod lists;
mod malformed_upstream;
mod membership;
mod misbehaviour;
mod missing_tags;
mod names;
mod no_room;
mod node_credentials;
mod opaque_manifests;
mod path_logins;
mod plugins;
#[cfg(feature = "kubernetes")]
mod pods;
#[cfg(feature = "kubernetes")]
mod pods_list;
#[cfg(feature = "kubernetes")]
mod pods_no_room;
#[cfg(feature = "kubernetes")]
mod pods_tenants;
#[cfg(feature = "kubernetes")]
mod pods_watch;
#[cfg(feature = "kubernetes")]
mod pods_world;
mod prepull;
mod prepull_list;
mod program;
mod pulls;
mod ranges;
mod rate_limit_day;
mod redirects;
mod refusals;
mod registry_compatibility;
mod reload;
mod request_log;
mod rights;
mod runtime_errors;
mod secrets;
mod segments;
#[cfg(feature = "kubernetes")]
mod service_accounts;
mod several_ranges;
mod sha512;
mod site_cache;
mod space;
mod status_watch;
#[cfg(feature = "tier")]
mod tier;
mod timeouts;
mod tls_unsupported;
mod tokens;
#[cfg(feature = "otlp")]
mod traces;
mod transport;
mod trouble;
mod withheld;
mod wrong_content;
