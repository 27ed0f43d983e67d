//! An entry of `endpoints` of a `[[registry]]`: a URL, or a table with a URL and marks.

use std::path::Path;

use url::Url;

use crate::config::environment::Environment;
use crate::config::file::{Node, Value, node_of};
use crate::config::report::Place;
use crate::config::schema::{Context, Reader, Section, section};
use crate::config::value::{Kind, Shape, Text, choice, flag};
use crate::upstream::{CredentialUse, EndpointConfig};

section! {
    /// An endpoint with marks.
    Endpoint = "registry.endpoints";

    /// Where it is.
    reload url: Option<Url> = url(), |_| None;

    /// Whose credentials it is shown: none, the node's, or the caller's too. Without it, the caller's where it stands
    /// for the registry, else none.
    reload credentials: Option<CredentialUse> = choice(&CredentialUse::NAMES), |_| None;

    /// Whether its word proves a right. Without it, if it is on the registry's own host, or is the only endpoint.
    reload authoritative: Option<bool> = flag(), |_| None;
}

/// A URL, or a table with a URL and marks.
pub(super) struct EndpointKind;

impl Kind for EndpointKind {
    type Value = EndpointConfig;

    fn shape(&self) -> Shape {
        let keys = Endpoint::keys().into_iter().map(|key| (key.name, key.shape)).collect();
        Shape::Either(Box::new(url().shape()), Box::new(Shape::Table(keys)))
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<EndpointConfig> {
        if value.is_str() {
            return url().read(value, place).map(EndpointConfig::from);
        }
        let Node::Section(tree) = node_of(value, &place.source()?) else {
            place.mistake("expected texts or tables in the list");
            return None;
        };
        let mut reader = Reader::within(place.entry(), tree);
        let environment = Environment::default();
        let context = Context { environment: &environment, state: Path::new("") };
        let Endpoint { url, credentials, authoritative } = Endpoint::read(&mut reader, &context);
        if url.is_none()
            && let Some(url) = reader.place().absent_key("url")
        {
            url.mistake("where is it? url = \"https://mirror.corp\"");
        }
        reader.finish();
        url.map(|url| EndpointConfig { url, credentials, authoritative })
    }

    fn write(&self, value: &EndpointConfig) -> Value {
        let EndpointConfig { url: at, credentials, authoritative } = value.clone();
        if credentials.is_none() && authoritative.is_none() {
            return url().write(&at);
        }
        let endpoint = Endpoint { url: Some(at), credentials, authoritative };
        let keys = Endpoint::keys().into_iter().map(|key| key.name);
        keys.zip(endpoint.values()).filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

fn url() -> Text<Url> {
    let examples = &["https://mirror.corp/v2/hub", "http://127.0.0.1:5000/"];
    Text { what: "URL", examples, read: url_of, write: Url::to_string }
}

fn url_of(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("{e}; expected https://host or http://host:port"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("expected https:// or http://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must not hold a user name or a password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("an endpoint has no query and no fragment".to_owned());
    }
    Ok(url)
}
