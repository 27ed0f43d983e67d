//! Platforms, and which manifest of an index is the right one: containerd's choice, as a pure function.
//!
//! Normalisation and order are those of containerd's `platforms.Only`: exact variant first, then older variants of
//! the same processor, then the 32-bit kin; entries that name no platform are kept and come last.

use std::fmt;
use std::str::FromStr;

/// Operating system, architecture and variant, normalised (`x86_64` is `amd64`, arm64 `v8` is the plain one).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Platform {
    os: String,
    arch: String,
    variant: String,
}

/// The text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed platform {0:?}: expected os/arch or os/arch/variant, such as linux/amd64 or linux/arm/v7")]
pub struct PlatformError(String);

impl Platform {
    /// A platform from the three parts as descriptors carry them.
    pub fn new(os: &str, arch: &str, variant: Option<&str>) -> Self {
        let os = if os.eq_ignore_ascii_case("macos") { "darwin".to_owned() } else { os.to_ascii_lowercase() };
        let arch = arch.to_ascii_lowercase();
        let variant = variant.unwrap_or_default().to_ascii_lowercase();
        let (arch, variant) = match (arch.as_str(), variant.as_str()) {
            ("amd64" | "x86_64" | "x86-64", "v1") => ("amd64", String::new()),
            ("amd64" | "x86_64" | "x86-64", _) => ("amd64", variant),
            ("386" | "i386", _) => ("386", String::new()),
            ("arm64" | "aarch64", "8" | "v8" | "v8.0") => ("arm64", String::new()),
            ("arm64" | "aarch64", "9" | "9.0" | "v9.0") => ("arm64", "v9".to_owned()),
            ("arm64" | "aarch64", _) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7".to_owned()),
            ("armel", _) => ("arm", "v6".to_owned()),
            ("arm", "") => ("arm", "v7".to_owned()),
            ("arm", "5" | "6" | "7" | "8") => ("arm", format!("v{variant}")),
            (other, _) => (other, variant),
        };
        Self { os, arch: arch.to_owned(), variant }
    }

    /// The platform this program was built for, which is the node's.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// The architecture, normalised.
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// What this platform can run, best first.
    fn runs(&self) -> Vec<Self> {
        let of = |arch: &str, variant: &str| Self {
            os: self.os.clone(),
            arch: arch.into(),
            variant: variant.into(),
        };
        let version = |default: u8| self.variant.trim_start_matches('v').parse().unwrap_or(default);
        let mut order = vec![self.clone()];
        match self.arch.as_str() {
            "amd64" => {
                order.extend((2..version(1)).rev().map(|v| of("amd64", &format!("v{v}"))));
                if !self.variant.is_empty() {
                    order.push(of("amd64", ""));
                }
                order.push(of("386", ""));
            }
            "arm64" => {
                if !self.variant.is_empty() {
                    order.push(of("arm64", ""));
                }
                order.extend((5..=8).rev().map(|v| of("arm", &format!("v{v}"))));
            }
            "arm" => order.extend((5..version(7)).rev().map(|v| of("arm", &format!("v{v}")))),
            _ => {}
        }
        order
    }

    /// The positions of those `offers` that this platform can run, best first; an offer without a platform may be
    /// anything and comes last.
    pub fn choose<'a>(&self, offers: impl IntoIterator<Item = Option<&'a Self>>) -> Vec<usize> {
        let order = self.runs();
        let mut ranked: Vec<(usize, usize)> = offers
            .into_iter()
            .enumerate()
            .filter_map(|(at, offer)| match offer {
                Some(offer) => order.iter().position(|runs| runs == offer).map(|rank| (rank, at)),
                None => Some((order.len(), at)),
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, at)| at).collect()
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let good = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        match parts.as_slice() {
            [os, arch] if parts.iter().all(good) => Ok(Self::new(os, arch, None)),
            [os, arch, variant] if parts.iter().all(good) => Ok(Self::new(os, arch, Some(variant))),
            _ => Err(PlatformError(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(host: &str, offers: &[&str]) -> Vec<String> {
        let parsed: Vec<Option<Platform>> = offers.iter().map(|o| o.parse().ok()).collect();
        let host: Platform = host.parse().unwrap();
        host.choose(parsed.iter().map(Option::as_ref)).into_iter().map(|at| offers[at].to_owned()).collect()
    }

    #[test]
    fn the_best_match_comes_first_and_the_unnamed_last() {
        let offers = [
            "",
            "linux/386",
            "linux/arm64",
            "linux/amd64/v2",
            "linux/amd64",
            "windows/amd64",
            "unknown/unknown",
        ];
        assert_eq!(chosen("linux/amd64", &offers), ["linux/amd64", "linux/386", ""]);
        assert_eq!(chosen("linux/amd64/v3", &offers), ["linux/amd64/v2", "linux/amd64", "linux/386", ""]);
        assert_eq!(
            chosen("linux/arm64/v8", &["linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"]),
            ["linux/arm64/v8", "linux/arm/v7", "linux/arm/v6"]
        );
        assert_eq!(
            chosen("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5", "linux/arm64"]),
            ["linux/arm/v5"]
        );
        assert_eq!(chosen("linux/s390x", &["linux/amd64"]), Vec::<String>::new());
    }

    #[test]
    fn spellings_are_normalised() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/aarch64/v8", "linux/arm64"),
            ("Linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/i386", "linux/386"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "a b/c"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }
}
