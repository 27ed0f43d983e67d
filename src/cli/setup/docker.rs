//! Docker: `registry-mirrors`, which it uses for Docker Hub only, and `hosts.toml` for its containerd image store.
//!
//! Docker shows its user's login for Docker Hub to a mirror that asks for it on `/v2/`, as this cache does (seen with
//! Docker 20.10). Its containerd image store shows a mirror none: through that, this cache serves what the node's
//! credentials or anonymous callers may read. Only that store can send a header.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstArray, CstInputValue, CstNode, CstObject, CstObjectProp, CstRootNode};
use serde_json::{Map, Value, json};

use super::change::Change;
use super::containerd::hosts_of;
use super::hosts::{Certificates, without_host};
use super::plan::{SetupPlan, SetupRequest};
use crate::cli::runtimes::machine::Machine;
use crate::cli::runtimes::marks::{DOCKER_CONFIG as CONFIG, DOCKER_HOSTS as HOSTS};
use crate::reference::DOCKER_HUB;

const MIRRORS: &str = "registry-mirrors";

pub(super) fn plan(machine: &Machine, request: &SetupRequest) -> Result<SetupPlan, String> {
    let mut plan = SetupPlan { restart: Some("systemctl restart docker"), ..SetupPlan::default() };
    if request.strict {
        return Err("Docker always turns to Docker Hub itself when a mirror does not have it: --strict is not possible".to_owned());
    }
    if !request.undo && request.default_registry.as_str() != DOCKER_HUB {
        return Err(format!(
            "Docker asks its mirrors for images of Docker Hub without saying so, and [server] default_registry is {}",
            request.default_registry
        ));
    }
    plan.changes.push(daemon(Change::read(machine, CONFIG)?, request)?);
    for name in machine.names(HOSTS).iter().filter(|name| machine.has_directory(&format!("{HOSTS}/{name}"))) {
        // Those that an earlier setup has named.
        let change = Change::read(machine, &format!("{HOSTS}/{name}/hosts.toml"))?;
        plan.changes.push(change.undone(&without_host));
    }
    if request.undo {
        return Ok(plan);
    }
    for name in [DOCKER_HUB.to_owned()].iter().chain(&request.registries) {
        let change =
            hosts_of(machine, request, &format!("{HOSTS}/{name}/hosts.toml"), Certificates::default())?;
        plan.changes.retain(|other| other.path != change.path);
        plan.changes.push(change);
    }
    if request.gate.is_some() {
        plan.notes.push(format!("[server] gate_header is set, and Docker can send no header to its registry-mirrors: {CONFIG} does not name this cache. Only Docker's containerd image store pulls through it; without that store every pull goes to Docker Hub itself"));
    }
    plan.notes.push("Docker's containerd image store shows no credential to a mirror: private images are served to it only where the node's own docker config may read them; without that store Docker shows its user's login".to_owned());
    Ok(plan)
}

fn daemon(mut change: Change, request: &SetupRequest) -> Result<Change, String> {
    // JSON has no comments, so that nothing could carry a mark: the file is kept.
    change.carries_no_mark = true;
    let mut urls = request.urls();
    urls.extend(change.led_to().map(str::to_owned));
    let text = change.text().to_owned();
    config_of(&text)?;
    let remove = |text: &str| without_mirrors(text, &urls);
    if request.undo || request.gate.is_some() {
        return Ok(change.undone(&remove));
    }
    let original = change.original(&remove).unwrap_or_default();
    let mirrors = mirrors_of(&config_of(&original)?)?;
    if mirrors.first().is_some_and(|mirror| leads_to(mirror, &request.urls())) {
        return Ok(change.becomes(original, &request.url, &remove));
    }
    Ok(change.becomes(with_mirror(&original, &request.url, &urls)?, &request.url, &remove))
}

/// The file with `url` as the first mirror, and without `urls`. Nothing else of it changes.
fn with_mirror(text: &str, url: &str, urls: &[String]) -> Result<String, String> {
    if text.trim().is_empty() {
        return Ok(format!("{{\n  \"{MIRRORS}\": [\n    {}\n  ]\n}}\n", json!(url)));
    }
    let (root, object) = parsed(text)?;
    let first = CstInputValue::from(url);
    match property(&object).map(|property| (property.array_value(), property)) {
        None => drop(object.append(MIRRORS, CstInputValue::Array(vec![first]))),
        Some((None, property)) => property.set_value(CstInputValue::Array(vec![first])),
        Some((Some(mirrors), _)) => {
            remove(&mirrors, urls);
            mirrors.insert(0, first);
        }
    }
    Ok(root.to_string())
}

/// The file without these mirrors; `None`: nothing is left.
fn without_mirrors(text: &str, urls: &[String]) -> Option<String> {
    let unchanged = || Some(text.to_owned());
    if config_of(text).and_then(|config| mirrors_of(&config)).is_err() {
        return unchanged();
    }
    let Ok((root, object)) = parsed(text) else { return unchanged() };
    let Some(property) = property(&object) else { return unchanged() };
    let Some(mirrors) = property.array_value().filter(|mirrors| remove(mirrors, urls)) else {
        return unchanged();
    };
    if mirrors.elements().is_empty() {
        property.remove();
    }
    (!object.properties().is_empty()).then(|| root.to_string())
}

/// Removes these mirrors; whether there was one of them.
fn remove(mirrors: &CstArray, urls: &[String]) -> bool {
    let is_theirs = |element: &CstNode| {
        let text = element.as_string_lit().and_then(|text| text.decoded_value().ok());
        text.is_some_and(|text| leads_to(&Value::String(text), urls))
    };
    let theirs: Vec<CstNode> = mirrors.elements().into_iter().filter(is_theirs).collect();
    let any = !theirs.is_empty();
    theirs.into_iter().for_each(CstNode::remove);
    any
}

/// The file with every space of it, and the object that it is.
fn parsed(text: &str) -> Result<(CstRootNode, CstObject), String> {
    let malformed = |error: &dyn std::fmt::Display| format!("{CONFIG} is malformed: {error}");
    let root = CstRootNode::parse(text, &ParseOptions::default()).map_err(|error| malformed(&error))?;
    let object = root.object_value().ok_or_else(|| malformed(&"it is no object"))?;
    Ok((root, object))
}

/// The mirrors: of a key that is there twice, Docker reads the last.
fn property(object: &CstObject) -> Option<CstObjectProp> {
    object.properties().into_iter().rfind(|property| property.decoded_name().as_deref() == Some(MIRRORS))
}

fn config_of(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|error| format!("{CONFIG} is malformed: {error}"))
}

fn mirrors_of(config: &Map<String, Value>) -> Result<Vec<Value>, String> {
    match config.get(MIRRORS) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(mirrors)) => Ok(mirrors.clone()),
        Some(_) => Err(format!("{MIRRORS} in {CONFIG} is no list")),
    }
}

/// Docker writes a slash behind it.
fn leads_to(mirror: &Value, urls: &[String]) -> bool {
    mirror.as_str().is_some_and(|mirror| urls.iter().any(|url| mirror.trim_end_matches('/') == url))
}

#[cfg(test)]
#[path = "docker_tests.rs"]
mod tests;
