//! Integration tests: a whole daemon in this process against a registry that can misbehave.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod admin;
mod blobs;
mod callers;
mod commands;
mod connections;
mod day;
mod disk;
mod endpoints;
mod freshness;
mod lanes;
mod lies;
mod limits;
mod lists;
mod membership;
mod misbehaviour;
mod prepull;
mod pulls;
mod quirks;
mod ranges;
mod rights;
mod secrets;
mod space;
mod suffixes;
mod tokens;
mod transport;
mod waits;
