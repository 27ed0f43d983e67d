//! The API server, as one identity of this node: its pods, pull secrets, service accounts and the node's images.
//!
//! ```text
//! client              the connection and its identity; every question goes through it
//!   credential_program  what a kubeconfig names for a credential, run
//!   answer_bounds       how much is taken of an answer
//!   error               errors without secrets
//! watch               this node's pods: listed, then watched (watch_progress); seen_pod reads one
//! secrets             pull secrets; accounts: service accounts and their tokens; node_images: what the runtime has
//! access              what the identity may read, for `larder doctor`
//! ```
//!
//! Promises: what is asked for is of this node or of its pods; every question has an end, and every answer a bound.
//!
//! Deliberately not here: what becomes of a pod (`kubernetes/pods`).

mod access;
mod accounts;
mod answer_bounds;
mod client;
mod credential_program;
mod error;
mod node_images;
mod secrets;
mod seen_pod;
mod watch;
mod watch_progress;

pub use access::{Access, AccountAccess};
pub use client::{ApiServer, AskError, Waits};
pub use node_images::NodeImages;
