//! What a pull is made of, one operation at a time: digests, checksums, requests and ranges, opening and reading a blob,
//! choosing what to evict, and a line of the request log.
//!
//! `cargo bench --bench micro`. The checksums that the store does not use are here because the choice was made by this.

#![allow(missing_docs, reason = "criterion's macros make functions without")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(clippy::disallowed_methods, reason = "these are rules of the daemon's code")]

mod request_log;
#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::hint::black_box;
use std::io::IoSliceMut;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{Method, Request, Uri};
use larder::listener::Hosts;
use larder::reference::{Digest, Registry, Repository};
use larder::serve::{range, route};
use larder::store::{self, Amount, Budget, Member, Owner, Store, WholeContent};
use larder::support::clock::Clock;
use larder::support::metrics::Registry as MetricsRegistry;
use rustix::io::{ReadWriteFlags, preadv2};

const CHUNK: usize = 64 * 1024;
/// More than any processor keeps near itself.
const FILE: usize = 256 * 1024 * 1024;

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(step).collect()
}

/// SHA-256, and three checksums, of a chunk that is in the nearest memory.
fn hashes(c: &mut Criterion) {
    let chunk = noise(CHUNK);
    let mut group = c.benchmark_group("one 64 KiB chunk");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    group.bench_function("SHA-256", |b| b.iter(|| Digest::of(black_box(&chunk))));
    group.bench_function("crc32c", |b| b.iter(|| crc32c::crc32c(black_box(&chunk))));
    group.bench_function("crc-fast (used)", |b| {
        b.iter(|| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, black_box(&chunk)));
    });
    group.bench_function("xxh3", |b| b.iter(|| xxhash_rust::xxh3::xxh3_64(black_box(&chunk))));
    group.finish();
}

/// Reading a file that is in the page cache and checking it, by the size of a read.
fn reads(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    std::fs::write(&path, noise(FILE)).unwrap();
    let file = File::open(&path).unwrap();
    let mut group = c.benchmark_group("read and check 256 MiB");
    group.throughput(Throughput::Bytes(FILE as u64)).sample_size(10);
    for size in [16 * 1024, 32 * 1024, CHUNK, 128 * 1024, 256 * 1024] {
        // On a page, as the store's own buffers are.
        let mut memory = vec![0; size + 4096];
        let begin = memory.as_ptr().align_offset(4096);
        group.bench_function(BenchmarkId::from_parameter(format!("{} KiB a read", size / 1024)), |b| {
            b.iter(|| {
                let (mut at, mut sum) = (0, 0);
                while at < FILE {
                    let buffer = &mut memory[begin..begin + size];
                    let into = &mut [IoSliceMut::new(buffer)];
                    at += preadv2(&file, into, at as u64, ReadWriteFlags::empty()).unwrap();
                    sum ^=
                        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &memory[begin..begin + size]);
                }
                sum
            });
        });
    }
    group.finish();
}

/// What every request costs before anything is looked up: whom it is for, and what it asks.
fn requests(c: &mut Criterion) {
    let digest = Digest::of(b"x");
    let hub = Registry::docker_hub();
    let hosts = Hosts::new(&[5050], &[]);
    let uri = format!("/v2/library/nginx/manifests/{digest}?ns=docker.io");
    let request = Request::get(&uri).header("host", "127.0.0.1:5050").body(()).unwrap();
    c.bench_function("a request is read", |b| {
        b.iter(|| {
            let uri: Uri = black_box(&uri).parse().unwrap();
            let read = route::parse(&Method::GET, &uri, request.headers(), &hub);
            (hosts.check(&request).is_ok(), read.unwrap())
        });
    });
    c.bench_function("a range is read", |b| {
        b.iter(|| range::answer(black_box(Some("bytes=1048576-2097151")), black_box(1 << 30)));
    });
}

/// A hit: a blob opened while others read it, opened for the first time, and read with every chunk checked.
fn blobs(c: &mut Criterion) {
    const LAYER: usize = 64 * 1024 * 1024;
    let directory = tempfile::tempdir().unwrap();
    let budget = Budget { max: Amount::Percent(100), min_free: Amount::Bytes(0) };
    let config = store::Config { path: directory.path().to_owned(), budget };
    let metrics = store::metrics::Metrics::register(&MetricsRegistry::new()).unwrap();
    let store = Store::open(&config, Clock::system(), Arc::new(metrics)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let repository: Repository = "reg.test/app".parse().unwrap();
    let put = |content: Vec<u8>| {
        let (repository, digest) = (repository.clone(), Digest::of(&content));
        let owner = Owner::unlimited(repository.registry());
        let (bytes, member) = (content.into(), Member::Blob);
        let content = WholeContent { repository, digest, bytes, member, owner };
        runtime.block_on(store.put(content)).unwrap();
        digest
    };
    let (layer, manifest) = (put(noise(LAYER)), put(noise(2_000)));
    let open = |digest| runtime.block_on(store.blob(digest)).unwrap();
    let mut group = c.benchmark_group("a blob");
    group.bench_function("is opened for the first time", |b| b.iter(|| open(layer)));
    let blob = open(layer);
    group.bench_function("is opened while it is read", |b| b.iter(|| open(layer)));
    group.bench_function("of 2 kB is opened and read", |b| {
        b.iter(|| runtime.block_on(open(manifest).read_all(1 << 20)).unwrap());
    });
    group.throughput(Throughput::Bytes(LAYER as u64)).sample_size(20);
    group.bench_function("of 64 MiB is read and checked", |b| {
        b.iter(|| {
            let mut at = 0;
            while at < LAYER as u64 {
                at += runtime.block_on(blob.read(at, LAYER as u64)).unwrap().len() as u64;
            }
        });
    });
    group.finish();
    runtime.block_on(store.close());
}

criterion_group!(benches, hashes, reads, requests, blobs, request_log::request_log);
criterion_main!(benches);
