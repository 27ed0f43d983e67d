//! Archives that are compressed as a whole: unpacked into a file without a name, which ends with this process.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of an unpacked archive at most: more than any image, and less than fills a disk without end.
const UNPACKED_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;
const CHUNK_BYTES: usize = 256 * 1024;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// What the media type of a layer ends with.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// How a file is compressed that begins like this; `None`: it is not.
pub(super) fn compression(first: &[u8]) -> Option<Compression> {
    match first {
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
        _ => None,
    }
}

/// Opens an archive, unpacked.
///
/// # Errors
/// It cannot be read, or is not what it begins like; there is no room for it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut file = File::open(path)?;
    let mut first = [0; 4];
    let mut read = 0;
    while read < first.len() {
        match file.read(first.get_mut(read..).unwrap_or_default())? {
            0 => break,
            count => read += count,
        }
    }
    file.seek(SeekFrom::Start(0))?;
    match compression(first.get(..read).unwrap_or_default()) {
        None => Ok(file),
        Some(Compression::Gzip) => unpacked(path, flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        Some(Compression::Zstd) => unpacked(path, zstd(BufReader::new(file))?),
    }
}

fn zstd(file: impl Read) -> io::Result<impl Read> {
    ruzstd::decoding::StreamingDecoder::new(file).map_err(|error| io::Error::other(error.to_string()))
}

fn unpacked(path: &Path, mut packed: impl Read) -> io::Result<File> {
    // Beside the archive, where there is room for files of its size, unless that may not be written to.
    let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::tempfile_in(beside).or_else(|_| tempfile::tempfile())?;
    let (mut chunk, mut total) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let read = packed.read(&mut chunk)?;
        let bytes = chunk.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        total += read as u64;
        if total > UNPACKED_BYTES_MAX {
            return Err(io::Error::other(format!("more than {UNPACKED_BYTES_MAX} bytes unpacked")));
        }
        file.write_all(bytes)?;
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}
