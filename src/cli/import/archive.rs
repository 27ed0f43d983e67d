//! A tar archive that is read in place: where each file is, and what links lead to.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crate::reference::MANIFEST_BYTES_MAX;

/// Links that are followed one after the other.
const LINKS_MAX: usize = 8;

/// An archive that is read in place.
pub(super) struct Archive {
    pub(super) file: File,
    /// Of each file in it the offset and the length in bytes.
    pub(super) files: HashMap<String, (u64, u64)>,
    /// The links in it, and what they lead to.
    links: HashMap<String, String>,
    /// Files that are not in it and were made from it.
    pub(super) made: HashMap<String, Vec<u8>>,
}

impl Archive {
    /// Finds every file in it.
    pub(super) fn read(file: File) -> io::Result<Self> {
        let mut tar = tar::Archive::new(file.try_clone()?);
        let (mut files, mut links) = (HashMap::new(), HashMap::new());
        for entry in tar.entries_with_seek().map_err(without_content)? {
            let entry = entry.map_err(without_content)?;
            let name =
                entry.path().map_err(without_content)?.to_string_lossy().trim_start_matches("./").to_owned();
            let kind = entry.header().entry_type();
            if kind.is_file() {
                files.insert(name, (entry.raw_file_position(), entry.size()));
            } else if let Some(target) = entry.link_name().map_err(without_content)? {
                let target = target.to_string_lossy();
                // A hard link is named from the top, a symbolic one from where it is.
                let target = if kind.is_symlink() { joined(&name, &target) } else { joined("", &target) };
                links.insert(name, target);
            }
        }
        Ok(Self { file, files, links, made: HashMap::new() })
    }

    /// Where a file is, and its length; links are followed.
    pub(super) fn place(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = name;
        for _ in 0..LINKS_MAX {
            match self.files.get(name) {
                Some(place) => return Some(*place),
                None => name = self.links.get(name)?,
            }
        }
        None
    }

    /// A file of it, and its bytes.
    pub(super) fn open(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), String> {
        if let Some(made) = self.made.get(name) {
            return Ok((Box::new(io::Cursor::new(made.clone())), made.len() as u64));
        }
        let (at, len) = self.place(name).ok_or_else(|| format!("{name} is not in the archive"))?;
        let mut file = self.file.try_clone().map_err(|e| e.to_string())?;
        file.seek(SeekFrom::Start(at)).map_err(|e| e.to_string())?;
        Ok((Box::new(file.take(len)), len))
    }

    /// A file that is not large.
    pub(super) fn small(&self, name: &str) -> Result<Vec<u8>, String> {
        whole(name, self.open(name)?.0)
    }
}

/// The library's words of what is no archive quote it; the operating system's do not.
fn without_content(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => io::Error::new(error.kind(), "it is no tar archive, or a damaged one"),
    }
}

/// A file that is not large.
pub(super) fn whole(name: &str, reader: Box<dyn Read + Send>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = reader.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|e| format!("{name}: {e}"))?;
    Ok(bytes)
}

/// The path in an archive that a link beside `name` means.
fn joined(name: &str, target: &str) -> String {
    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_archive_is_not_printed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        std::fs::write(&path, "root:x:0:0:root:/root:/bin/bash\n".repeat(64)).unwrap();
        let error = Archive::read(File::open(&path).unwrap()).err().unwrap().to_string();
        assert!(error.contains("no tar archive") && !error.contains("root"), "{error}");
    }
}
