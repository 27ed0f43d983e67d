//! A registry in this process: every blob and manifest that the store was filled with, and endless others.
//!
//! It answers from the digest alone: what content a digest has is computed from its number, which a cold request carries
//! in the name of its repository.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use crate::fixture::{MEDIA_TYPE, cold_blob};

/// A running registry.
pub(crate) struct Registry {
    pub(crate) address: String,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { address }
    }
}

fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(reading) = stream.try_clone() else { return };
    let mut reading = BufReader::new(reading);
    loop {
        let mut first = String::new();
        if reading.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut line = String::new();
        while reading.read_line(&mut line).unwrap_or(0) > 2 {
            line.clear();
        }
        if stream.write_all(&answer(&first)).is_err() {
            return;
        }
    }
}

/// `GET /v2/<repository>/blobs/<digest>`, where a cold blob's repository is `cold/<number>`. Every HEAD is a yes.
fn answer(first: &str) -> Vec<u8> {
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let number = path.strip_prefix("/v2/cold/").and_then(|rest| rest.split('/').next()?.parse().ok());
    let body = number.map(cold_blob).unwrap_or_default();
    let digest = path.rsplit('/').next().unwrap_or_default();
    let media_type = if path.contains("/manifests/") { MEDIA_TYPE } else { "application/octet-stream" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n\r\n",
        body.len()
    );
    let mut out = head.into_bytes();
    if method == "GET" {
        out.extend_from_slice(&body);
    }
    out
}
