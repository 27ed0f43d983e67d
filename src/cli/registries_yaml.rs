//! `registries.yaml`, from which k3s and RKE2 make their containerd's configuration at every start.
//!
//! `mirrors` names endpoints for each registry, and for `*` those of every registry that it does not name.

use serde_json::{Map, Value};

use crate::support::yaml;

/// The name that stands for every registry that is not named.
pub(super) const ALL: &str = "*";

/// A file as data; an empty one is an empty table.
///
/// # Errors
/// It is malformed: k3s and RKE2 do not start with it.
pub(super) fn read(text: &str) -> Result<Map<String, Value>, String> {
    let documents: Vec<Value> = yaml::documents(text)?;
    match documents.as_slice() {
        [] | [Value::Null] => Ok(Map::new()),
        [Value::Object(file)] => Ok(file.clone()),
        _ => Err("it is no table".to_owned()),
    }
}

/// The endpoints of each registry that is named, in their order.
pub(super) fn endpoints(file: &Map<String, Value>) -> Vec<(String, Vec<String>)> {
    let mirrors = file.get("mirrors").and_then(Value::as_object);
    let named = mirrors.into_iter().flatten().map(|(registry, mirror)| {
        let listed = mirror.get("endpoint").and_then(Value::as_array);
        let urls = listed.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        (registry.clone(), urls.collect())
    });
    named.collect()
}

/// Whether an endpoint is this cache.
pub(super) fn leads_to(endpoint: &str, url: &str) -> bool {
    endpoint.trim_end_matches('/').trim_end_matches("/v2") == url
}

/// The endpoints of a registry, to be changed; `None` where it is named in a form that is not understood.
pub(super) fn endpoints_mut<'f>(
    file: &'f mut Map<String, Value>,
    registry: &str,
) -> Option<&'f mut Vec<Value>> {
    let table = |value: &mut Value| {
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
    };
    let mirrors = file.entry("mirrors").or_insert(Value::Null);
    table(mirrors);
    let mirror = mirrors.as_object_mut()?.entry(registry).or_insert(Value::Null);
    table(mirror);
    let listed = mirror.as_object_mut()?.entry("endpoint").or_insert(Value::Null);
    if listed.is_null() {
        *listed = Value::Array(Vec::new());
    }
    listed.as_array_mut()
}

/// A file as YAML.
pub(super) fn written(file: &Map<String, Value>) -> String {
    let mut text = String::new();
    map(file, 0, &mut text);
    text
}

fn map(entries: &Map<String, Value>, depth: usize, text: &mut String) {
    for (key, value) in entries {
        text.push_str(&"  ".repeat(depth));
        // JSON's strings are YAML's, and a name such as * has to be one.
        text.push_str(&plain(key));
        text.push(':');
        under(value, depth, text);
    }
}

fn under(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            text.push('\n');
            map(entries, depth + 1, text);
        }
        Value::Array(values) if !values.is_empty() => {
            text.push('\n');
            for value in values {
                text.push_str(&"  ".repeat(depth + 1));
                // Within a list, flow style: JSON is YAML.
                text.push_str(&format!("- {value}\n"));
            }
        }
        other => text.push_str(&format!(" {other}\n")),
    }
}

/// A key without quotes where that is certain to be the same.
fn plain(key: &str) -> String {
    let is_plain = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/'))
        && !matches!(
            key.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if is_plain { key.to_owned() } else { Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for text in [
            "",
            "mirrors:\n  docker.io:\n    endpoint:\n      - \"https://m.corp\"\n    rewrite:\n      \"^rancher/(.*)\": \"x/$1\"\nconfigs:\n  \"reg.corp:5000\":\n    auth: {username: u, password: 'p: #'}\n    tls: {insecure_skip_verify: true}\n",
            "mirrors:\n  '*':\n",
            "mirrors: {}\nconfigs: []\ntrue: 1.5\n",
            "a: [[1, {b: [c]}], null]\n",
        ] {
            let Ok(file) = read(text) else { panic!("{text}") };
            let written = written(&file);
            assert_eq!(read(&written), Ok(file), "{written}");
        }
        assert!(read("mirrors: [").is_err() && read("- a\n").is_err());
    }
}
