//! The registrable domain of a name: what its owner registered, by the public suffix list. Names below it are one
//! owner's.

use super::name::Registry;

/// The domain that the owner of a name registered, in lower case, and whether the public suffix list knows its suffix;
/// `None` for a public suffix itself.
pub fn registered_domain(name: &str) -> Option<(String, bool)> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let domain = psl::domain(name.as_bytes())?;
    let is_known = domain.suffix().is_known();
    String::from_utf8(domain.as_bytes().to_vec()).ok().map(|domain| (domain, is_known))
}

impl Registry {
    /// The domain that the owner of this registry registered, whatever names and ports it has below that; an IP address
    /// or a public suffix stands for itself, without its port.
    pub fn owner_domain(&self) -> String {
        let host = self.host();
        let domain = if self.is_ip_literal() { None } else { registered_domain(host) };
        domain.map_or_else(|| host.to_ascii_lowercase(), |(domain, _)| domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ports_of_one_owner_are_one() {
        for (registry, domain) in [
            ("evil.test", "evil.test"),
            ("a.evil.test:5000", "evil.test"),
            ("b.c.EVIL.test", "evil.test"),
            ("a.evil.co.uk", "evil.co.uk"),
            ("evil.github.io", "evil.github.io"),
            ("co.uk", "co.uk"),
            ("10.0.0.1:5000", "10.0.0.1"),
            ("[::1]:5000", "[::1]"),
            ("localhost:5000", "localhost"),
        ] {
            assert_eq!(registry.parse::<Registry>().unwrap().owner_domain(), domain, "{registry}");
        }
    }
}
