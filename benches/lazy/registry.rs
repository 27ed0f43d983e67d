//! A registry in this process with one image of one large layer, which it serves by ranges and counts.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::reference::Digest;

pub(crate) const TAG: &str = "v1";
/// How long it takes for an answer.
const DELAY: Duration = Duration::from_millis(1);

/// A running registry.
pub(crate) struct Registry {
    pub(crate) address: String,
    /// The digest of the layer. Only parts of it are read, so that it need not be right.
    pub(crate) layer: Digest,
    content: Arc<Content>,
}

struct Content {
    bytes: usize,
    manifest: Vec<u8>,
    sent: AtomicU64,
}

/// The byte of the layer at `offset`.
pub(crate) fn byte_at(offset: usize) -> u8 {
    (offset / 4096 % 251) as u8
}

impl Registry {
    pub(crate) fn start(bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (layer, config) = (Digest::of(b"the layer"), Digest::of(b"{}"));
        let media_type = larder::reference::MediaType::OCI_MANIFEST;
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"x/y","digest":"{config}","size":2}},"layers":[{{"mediaType":"x/y","digest":"{layer}","size":{bytes}}}]}}"#
        );
        let content = Content { bytes, manifest: manifest.into_bytes(), sent: AtomicU64::new(0) };
        let content = Arc::new(content);
        let serving = Arc::clone(&content);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let content = Arc::clone(&serving);
                std::thread::spawn(move || content.serve(stream));
            }
        });
        Self { address, layer, content }
    }

    /// Bytes of the layer that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.content.sent.load(Ordering::Relaxed)
    }
}

impl Content {
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(reading) = stream.try_clone() else { return };
        let mut reading = BufReader::new(reading);
        loop {
            let mut first = String::new();
            if reading.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            let (mut line, mut range) = (String::new(), None);
            while reading.read_line(&mut line).unwrap_or(0) > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                    range =
                        value.trim().split_once('-').map(|(start, last)| (start.to_owned(), last.to_owned()));
                }
                line.clear();
            }
            std::thread::sleep(DELAY);
            if stream.write_all(&self.answer(&first, range)).is_err() {
                return;
            }
        }
    }

    fn answer(&self, first: &str, range: Option<(String, String)>) -> Vec<u8> {
        let is_get = first.starts_with("GET ");
        if first.contains("/manifests/") {
            let (digest, media_type) =
                (Digest::of(&self.manifest), larder::reference::MediaType::OCI_MANIFEST);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n\r\n",
                self.manifest.len()
            );
            let body: &[u8] = if is_get { &self.manifest } else { &[] };
            return [head.as_bytes(), body].concat();
        }
        let Some((start, last)) = range.filter(|_| is_get) else {
            return format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", self.bytes).into_bytes();
        };
        let start: usize = start.parse().unwrap();
        let last: usize = last.parse().map_or(self.bytes - 1, |last: usize| last.min(self.bytes - 1));
        let length = last + 1 - start;
        self.sent.fetch_add(length as u64, Ordering::Relaxed);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\nContent-Range: bytes {start}-{last}/{}\r\n\r\n",
            self.bytes
        );
        head.into_bytes().into_iter().chain((start..=last).map(byte_at)).collect()
    }
}
