//! A registry in this process: images of random layers, answered after a delay; how fast they leave is for the link.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::reference::{Digest, MediaType};

/// The round trip to a registry on another network.
const DELAY: Duration = Duration::from_millis(50);

type Content = Arc<Mutex<HashMap<String, Arc<Vec<u8>>>>>;

/// A running registry.
pub(crate) struct Registry {
    pub(crate) address: String,
    content: Content,
}

/// A layer that was pushed.
pub(crate) struct Layer {
    pub(crate) digest: Digest,
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// An image that was pushed.
pub(crate) struct Image {
    pub(crate) tag: String,
    pub(crate) manifest: Vec<u8>,
    pub(crate) layers: Vec<Layer>,
}

impl Image {
    pub(crate) fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.bytes.len()).sum()
    }
}

impl Registry {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content = Content::default();
        let serving = Arc::clone(&content);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let content = Arc::clone(&serving);
                std::thread::spawn(move || serve(stream, &content));
            }
        });
        Self { address, content }
    }

    /// An image of so many bytes; another seed makes other bytes.
    pub(crate) fn push(&self, bytes: usize, layers: usize, seed: u64) -> Image {
        let layers: Vec<Layer> = (0..layers)
            .map(|at| {
                let bytes = noise(bytes / layers, seed * 1_000 + at as u64 + 1);
                Layer { digest: Digest::of(&bytes), bytes: Arc::new(bytes) }
            })
            .collect();
        let config = Digest::of(b"{}");
        let described: Vec<String> = layers
            .iter()
            .map(|layer| {
                let size = layer.bytes.len();
                format!(r#"{{"mediaType":"x/y","digest":"{}","size":{size}}}"#, layer.digest)
            })
            .collect();
        let media_type = MediaType::OCI_MANIFEST;
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"x/y","digest":"{config}","size":2}},"layers":[{}]}}"#,
            described.join(",")
        )
        .into_bytes();
        let mut content = self.content.lock().unwrap();
        let tag = format!("v{seed}");
        content.insert(tag.clone(), Arc::new(manifest.clone()));
        content.insert(Digest::of(&manifest).to_string(), Arc::new(manifest.clone()));
        content.insert(config.to_string(), Arc::new(b"{}".to_vec()));
        for layer in &layers {
            content.insert(layer.digest.to_string(), Arc::clone(&layer.bytes));
        }
        Image { tag, manifest, layers }
    }

    /// Drops the layers of an image.
    pub(crate) fn forget(&self, image: &Image) {
        let mut content = self.content.lock().unwrap();
        image.layers.iter().for_each(|layer| drop(content.remove(&layer.digest.to_string())));
    }
}

fn serve(mut stream: TcpStream, content: &Content) {
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
                range = value.trim().split_once('-').map(|(start, last)| (start.to_owned(), last.to_owned()));
            }
            line.clear();
        }
        std::thread::sleep(DELAY);
        if answer(&mut stream, &first, range, content).is_err() {
            return;
        }
    }
}

fn answer(
    stream: &mut TcpStream,
    first: &str,
    range: Option<(String, String)>,
    content: &Content,
) -> std::io::Result<()> {
    let path = first.split_whitespace().nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    let Some(bytes) = content.lock().unwrap().get(name).cloned() else {
        let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
        return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    };
    let is_manifest = path.contains("/manifests/");
    let media_type = if is_manifest { MediaType::OCI_MANIFEST } else { MediaType::OCTET_STREAM };
    let digest = if is_manifest { Digest::of(&bytes).to_string() } else { name.to_owned() };
    let total = bytes.len();
    let (start, end) = range.as_ref().map_or((0, total), |(start, last)| {
        (start.parse().unwrap_or(0), last.parse().map_or(total, |last: usize| (last + 1).min(total)))
    });
    let status = if range.is_some() {
        format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}", end - 1)
    } else {
        "200 OK".to_owned()
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n\r\n",
        end - start
    )?;
    if first.starts_with("GET ") { stream.write_all(&bytes[start..end]) } else { Ok(()) }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}
