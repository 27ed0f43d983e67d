//! The first byte of a cold pull, over 20 MB/s a connection.
//!
//! The upstream is a registry in this process that answers from memory, so that a client which asks it directly waits for a
//! millisecond or two. Every cache runs a second time here, in front of that registry.

use std::sync::Arc;
use std::time::Instant;

use larder::reference::Digest;

use crate::client;
use crate::kind::Kind;
use crate::peers;
use crate::report::{Row, Table};
use crate::rounds::{in_turns, rounds};
use crate::server::Server;
use crate::servers::{Servers, larders};
use crate::support::images::Images;
use crate::support::registry::{Distance, Registry};

const ROUNDS: usize = 9;
/// Bytes a second of each connection to the registry.
const RATE: f64 = 20e6;
/// Bytes of the layer.
const LAYER: usize = 4 << 20;

/// A pull: HEAD of the tag, its manifest by digest, and the first byte of a layer; each on a connection of its own.
pub(crate) fn measure(servers: &mut Servers, table: &mut Table) {
    let images = Arc::new(Images::default());
    let registry = Registry::start(&images, Distance { each: Some(RATE), ..Distance::default() });
    let directory = servers.directory("first");
    let mut caches = larders(&directory, &[("reg.test", &registry.address)]);
    caches.extend(peers::start(&directory, &registry.address));
    let address = |kind: Kind| {
        let of_kind = |cache: &&Server| cache.kind == kind;
        caches.iter().find(of_kind).map_or(registry.address.clone(), |cache| cache.address.clone())
    };
    let mut kinds = servers.running(&[Kind::Direct]);
    kinds.extend(caches.iter().map(|cache| cache.kind));
    let mut seed = 0;
    let [of_pull, of_question] = in_turns("first byte", rounds(ROUNDS), &kinds, |_, kind| {
        seed += 1;
        let image = images.push("bench/app", &format!("v{seed}"), &[LAYER], seed);
        let (address, digest) = (address(kind), Digest::of(&image.manifest).to_string());
        rustix::fs::sync();
        let begun = Instant::now();
        client::ask(&address, "HEAD", &image.manifest_path(&image.tag))?.finish()?;
        client::ask(&address, "GET", &image.manifest_path(&digest))?.finish()?;
        let asked = Instant::now();
        let mut answer = client::ask(&address, "GET", &image.blob_path(&image.layers[0].digest))?;
        answer.wait()?;
        let (of_pull, of_question) = (begun.elapsed(), asked.elapsed());
        // A cache that goes on without its client would be in the way of the next one.
        answer.finish()?;
        images.forget(&image);
        Ok([of_pull.as_secs_f64() * 1e3, of_question.as_secs_f64() * 1e3])
    });
    table.add(Row::less("first byte of a layer over 20 MB/s, from the pull's start", "", "ms", of_pull));
    table.add(Row::less("first byte of a layer over 20 MB/s, from the question", "", "ms", of_question));
}
