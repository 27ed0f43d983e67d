//! What can be read of a manifest's JSON without judging it: the members that say what the document is, and the
//! descriptors of what it lists.
//!
//! Promises: nothing in a JSON object makes reading fail; what is not understood is left out and counted; memory is
//! bounded by [`DESCRIPTORS_MAX`], whatever the document nests or repeats. Not here: how it is read that nothing fails
//! (`lenient_json`), and what follows from it (`document`).

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::lenient_json::{Object, ObjectReader, OneOf, Part, Value};
use super::{Digest, MediaType, Platform};

/// Descriptors at most that are read of one document; real ones have dozens, and 10,000 layers have been seen.
pub(super) const DESCRIPTORS_MAX: usize = 16_384;
/// Bytes at most that one descriptor may promise: 1 TiB.
const DESCRIPTOR_SIZE_MAX: u64 = 1 << 40;

/// A descriptor inside a document. That it is named here proves nothing about who may read it.
#[derive(Debug, Clone)]
pub struct Child {
    /// The content.
    pub digest: Digest,
    /// Its bytes, as claimed.
    pub size: u64,
    /// For whom, in an index.
    pub platform: Option<Platform>,
    /// A layer that registries need not have: its type says that it must not be distributed, or it names addresses of
    /// its own (`urls`), which runtimes ask before any registry or mirror.
    pub is_foreign: bool,
    /// What runtimes download as a whole: a config, and a layer of a type that they unpack, or of none that is stated.
    /// Of other layers a snapshotter may read a little (nydus), and of an artifact's a client may want one.
    pub is_read_whole: bool,
}

/// The members that decide what a document is.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub(super) media_type: Option<String>,
    pub(super) is_version_1: bool,
    pub(super) manifests: Part<List>,
    pub(super) layers: Part<List>,
    pub(super) config: Part<Child>,
    pub(super) fs_layers: Part<()>,
    pub(super) has_signatures: bool,
    /// A member that is there twice: which of them counts depends on the reader.
    pub(super) repeated: Option<&'static str>,
}

/// A list of descriptors.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Those that are understood.
    pub(super) children: Vec<Child>,
    /// How many are not.
    pub(super) omitted: usize,
}

impl Outline {
    /// # Errors
    /// The bytes are no JSON object.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OutlineVisitor)
    }
}

const MEMBERS: &[&str] =
    &["schemaVersion", "mediaType", "manifests", "layers", "config", "fsLayers", "signatures"];

struct OutlineVisitor;

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
        let (mut outline, mut seen) = (Outline::default(), [false; MEMBERS.len()]);
        while let Some(name) = map.next_key_seed(OneOf(MEMBERS))? {
            let Some(at) = name else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if std::mem::replace(&mut seen[at], true) {
                outline.repeated = Some(MEMBERS[at]);
            }
            match MEMBERS[at] {
                "schemaVersion" => outline.is_version_1 = map.next_value::<Value>()? == Value::Number(1),
                "mediaType" => outline.media_type = map.next_value::<Value>()?.into_text(),
                "manifests" => outline.manifests = map.next_value_seed(ListSeed)?,
                "layers" => outline.layers = map.next_value_seed(ListSeed)?,
                "config" => outline.config = map.next_value::<Descriptor>()?.0,
                "signatures" => outline.has_signatures = map.next_value::<Value>()? != Value::Null,
                _ => {
                    let is_null = map.next_value::<Value>()? == Value::Null;
                    outline.fs_layers = if is_null { Part::Absent } else { Part::Read(()) };
                }
            }
        }
        Ok(outline)
    }
}

struct ListSeed;

impl<'de> DeserializeSeed<'de> for ListSeed {
    type Value = Part<List>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(Object(self))
    }
}

impl<'de> ObjectReader<'de> for ListSeed {
    type Value = List;

    fn read_list<A: SeqAccess<'de>>(self, mut all: A) -> Result<Part<List>, A::Error> {
        let mut list = List::default();
        while let Some(Descriptor(part)) = all.next_element()? {
            match part {
                Part::Read(child) if list.children.len() < DESCRIPTORS_MAX => list.children.push(child),
                _ => list.omitted += 1,
            }
        }
        Ok(Part::Read(list))
    }
}

/// A descriptor, as far as it is understood.
struct Descriptor(Part<Child>);

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Object(DescriptorReader)).map(Self)
    }
}

struct DescriptorReader;

const DESCRIPTOR: &[&str] = &["digest", "size", "platform", "mediaType", "urls"];
/// Of those, the ones that mean nothing where they are there twice.
const ONCE: usize = 3;

impl<'de> ObjectReader<'de> for DescriptorReader {
    type Value = Child;

    fn read_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part<Child>, A::Error> {
        let (mut digest, mut size, mut platform) = (None, None, Part::Absent);
        let (mut is_foreign, mut is_read_whole) = (false, true);
        let mut seen = [false; DESCRIPTOR.len()];
        let mut is_clear = true;
        while let Some(name) = map.next_key_seed(OneOf(DESCRIPTOR))? {
            let Some(at) = name else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            is_clear &= !std::mem::replace(&mut seen[at], at < ONCE);
            match DESCRIPTOR[at] {
                "digest" => digest = map.next_value::<Value>()?.into_text(),
                "size" => size = Some(map.next_value::<Value>()?),
                "platform" => platform = map.next_value::<PlatformPart>()?.0,
                "mediaType" => {
                    let text = map.next_value::<Value>()?.into_text();
                    if let Some(media_type) = text.and_then(|text| text.parse::<MediaType>().ok()) {
                        is_foreign |= media_type.is_foreign();
                        is_read_whole &= media_type.is_unpacked();
                    }
                }
                _ => is_foreign |= map.next_value::<Value>()? == Value::List { is_empty: false },
            }
        }
        let digest = digest.and_then(|text| text.parse::<Digest>().ok());
        let platform = match platform {
            Part::Absent => Some(None),
            Part::Unreadable => None,
            Part::Read(platform) => Some(Some(platform)),
        };
        Ok(match (digest, size, platform) {
            (Some(digest), Some(Value::Number(size)), Some(platform))
                if is_clear && size <= DESCRIPTOR_SIZE_MAX =>
            {
                Part::Read(Child { digest, size, platform, is_foreign, is_read_whole })
            }
            _ => Part::Unreadable,
        })
    }
}

struct PlatformPart(Part<Platform>);

impl<'de> Deserialize<'de> for PlatformPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Object(PlatformReader)).map(Self)
    }
}

struct PlatformReader;

const PLATFORM: &[&str] = &["os", "architecture", "variant"];

impl<'de> ObjectReader<'de> for PlatformReader {
    type Value = Platform;

    fn read_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part<Platform>, A::Error> {
        let mut parts: [Option<String>; PLATFORM.len()] = Default::default();
        while let Some(name) = map.next_key_seed(OneOf(PLATFORM))? {
            match name {
                Some(at) => parts[at] = map.next_value::<Value>()?.into_text(),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let [os, architecture, variant] = parts;
        // Without an operating system it is for the reader's own, as containerd takes it.
        let os = os.filter(|os| !os.is_empty()).unwrap_or_else(|| std::env::consts::OS.to_owned());
        let platform = |architecture: String| Platform::new(&os, &architecture, variant.as_deref());
        Ok(architecture.map_or(Part::Unreadable, |architecture| Part::Read(platform(architecture))))
    }
}
