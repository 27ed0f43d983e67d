//! A registry in this process, as far away and as slow as one on the Internet.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder::reference::{Digest, MediaType};

use crate::support::image::noise;

pub(crate) const TAG: &str = "v1";
/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Bytes a second of a connection, and of all together.
pub(crate) const CONNECTION_RATE: f64 = 20e6;
pub(crate) const LINK_RATE: f64 = 100e6;
/// Bytes that are written at a time.
const PIECE: usize = 32 * 1024;

pub(crate) fn repository(image: usize) -> String {
    format!("bench/image-{image}")
}

/// A running registry.
pub(crate) struct Upstream {
    pub(crate) address: String,
    images: usize,
}

/// The media type and the bytes.
type Content = HashMap<String, (&'static str, Vec<u8>)>;

/// Until when a line is busy.
type Line = Mutex<Instant>;

impl Upstream {
    /// A registry with so many images of so many bytes; another seed makes other bytes.
    pub(crate) fn start(images: usize, layers: usize, bytes: usize, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut content = Content::new();
        for image in 0..images {
            add(&mut content, image, layers, bytes, seed);
        }
        let (content, link) = (Arc::new(content), Arc::new(Mutex::new(Instant::now())));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (content, link) = (Arc::clone(&content), Arc::clone(&link));
                std::thread::spawn(move || serve(stream, &content, &link));
            }
        });
        Self { address, images }
    }

    pub(crate) fn images(&self) -> usize {
        self.images
    }
}

fn add(content: &mut Content, image: usize, layers: usize, bytes: usize, seed: u64) {
    let repository = repository(image);
    let layers: Vec<Vec<u8>> = (0..layers)
        .map(|layer| noise(bytes / layers, seed * 1_000 + (image * layers + layer) as u64 + 1))
        .collect();
    let config = format!(r#"{{"os":"linux","architecture":"amd64","image":{image}}}"#).into_bytes();
    let describe = |bytes: &[u8]| serde_json::json!({"mediaType": "x/y", "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": describe(&config), "layers": layers.iter().map(|layer| describe(layer)).collect::<Vec<_>>()});
    let manifest = manifest.to_string().into_bytes();
    for reference in [TAG.to_owned(), Digest::of(&manifest).to_string()] {
        let path = format!("/v2/{repository}/manifests/{reference}");
        content.insert(path, (MediaType::OCI_MANIFEST, manifest.clone()));
    }
    for blob in layers.into_iter().chain([config]) {
        let path = format!("/v2/{repository}/blobs/{}", Digest::of(&blob));
        content.insert(path, ("application/octet-stream", blob));
    }
}

fn serve(mut stream: TcpStream, content: &Content, link: &Line) {
    let _ = stream.set_nodelay(true);
    let mut reading = BufReader::new(stream.try_clone().unwrap());
    let own = Mutex::new(Instant::now());
    // What connecting takes.
    std::thread::sleep(ROUND_TRIP);
    loop {
        let mut first = String::new();
        if reading.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let (mut line, mut range) = (String::new(), None);
        while reading.read_line(&mut line).unwrap_or(0) > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                range = Some(value.trim().to_owned());
            }
            line.clear();
        }
        std::thread::sleep(ROUND_TRIP);
        let (head, body) = answer(&first, range.as_deref(), content);
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        for piece in body.chunks(PIECE) {
            wait(&own, piece.len() as f64 / CONNECTION_RATE);
            wait(link, piece.len() as f64 / LINK_RATE);
            if stream.write_all(piece).is_err() {
                return;
            }
        }
    }
}

fn answer<'a>(first: &str, range: Option<&str>, content: &'a Content) -> (String, &'a [u8]) {
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let Some((media_type, bytes)) = content.get(path) else {
        let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
        return (format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"), &[]);
    };
    let described = format!("Content-Type: {media_type}\r\nDocker-Content-Digest: {}\r\n", Digest::of(bytes));
    let (status, body, more) = match range.and_then(|range| range.split_once('-')) {
        Some((from, last)) => {
            let from: usize = from.parse().unwrap();
            let end = last.parse::<usize>().map_or(bytes.len(), |last| (last + 1).min(bytes.len()));
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", end - 1, bytes.len());
            ("206 Partial Content", &bytes[from..end], range)
        }
        None => ("200 OK", &bytes[..], String::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{described}{more}\r\n", body.len());
    (head, if method == "HEAD" { &[] } else { body })
}

/// Occupies the line for this many seconds.
fn wait(line: &Line, seconds: f64) {
    let until = {
        let mut busy = line.lock().unwrap();
        // Idle time is not made up for; the time that a sleep took too long is.
        let from = (*busy).max(Instant::now() - Duration::from_millis(5));
        *busy = from + Duration::from_secs_f64(seconds);
        *busy
    };
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
}
