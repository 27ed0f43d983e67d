//! `registries.yaml`, from which k3s and RKE2 make their containerd's configuration at every start.
//!
//! `mirrors` names endpoints for each registry, and for `*` those of every registry that it does not name.
//!
//! Promises: the file is changed as text, line by line, so that no value of an operator's is read and written anew
//! (`00123` would be a number, `yes` a boolean). What has another form than YAML's usual one in lines is not edited.

use serde_json::{Map, Value};

use crate::support::yaml;

/// The name that stands for every registry that is not named.
pub(in crate::cli) const ALL: &str = "*";

/// A file as data; an empty one is an empty table.
///
/// # Errors
/// It is malformed: k3s and RKE2 do not start with it.
pub(in crate::cli) fn read(text: &str) -> Result<Map<String, Value>, String> {
    let documents: Vec<Value> = yaml::documents(text)?;
    match documents.as_slice() {
        [] | [Value::Null] => Ok(Map::new()),
        [Value::Object(file)] => Ok(file.clone()),
        _ => Err("it is no table".to_owned()),
    }
}

/// The endpoints of each registry that is named, in their order.
pub(in crate::cli) fn endpoints(file: &Map<String, Value>) -> Vec<(String, Vec<String>)> {
    let mirrors = file.get("mirrors").and_then(Value::as_object);
    let named = mirrors.into_iter().flatten().map(|(registry, mirror)| {
        let listed = mirror.get("endpoint").and_then(Value::as_array);
        let urls = listed.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        (registry.clone(), urls.collect())
    });
    named.collect()
}

/// The registries whose mirror has a `rewrite`. k3s and RKE2 ask every endpoint that is named there by the rewritten
/// name, so that this cache would fetch another repository than the one that the pod names.
pub(in crate::cli) fn rewritten(file: &Map<String, Value>) -> Vec<String> {
    let mirrors = file.get("mirrors").and_then(Value::as_object);
    let has_rules = |mirror: &Value| match mirror.get("rewrite") {
        None | Some(Value::Null) => false,
        Some(Value::Object(rules)) => !rules.is_empty(),
        Some(_) => true,
    };
    let named = mirrors.into_iter().flatten().filter(|(_, mirror)| has_rules(mirror));
    named.map(|(registry, _)| registry.clone()).collect()
}

/// Whether an endpoint is this cache.
pub(in crate::cli) fn leads_to(endpoint: &str, url: &str) -> bool {
    endpoint.trim_end_matches('/').trim_end_matches("/v2") == url
}

/// The endpoints of a registry, to be changed; `None` where it is named in a form that is not understood.
pub(in crate::cli) fn endpoints_mut<'f>(
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

/// A text that leads a registry to `list` first; the rest of it stays byte for byte. `None`: it has a form that is not
/// edited here. Whether what comes out says what was meant is for the caller to verify.
pub(in crate::cli) fn extended(text: &str, registry: &str, list: &[String]) -> Option<String> {
    let mut text = Lines::of(text);
    let url = Value::from(list.first()?.as_str());
    let block = |depth: usize| {
        let lines = [
            "mirrors:".to_owned(),
            format!("  {}:", Value::from(registry)),
            "    endpoint:".to_owned(),
            format!("      - {url}"),
        ];
        lines
            .into_iter()
            .skip(depth)
            .map(move |line| line.get(2 * depth..).unwrap_or_default().to_owned())
            .collect()
    };
    let mut entries = text.children(0, text.0.len());
    let mut above: Option<Entry> = None;
    for (depth, name) in ["mirrors", registry, "endpoint"].into_iter().enumerate() {
        let indent = entries.first().map_or(0, |entry| entry.indent);
        let Some(entry) = entries.into_iter().find(|entry| entry.key == name) else {
            let at = above.map_or(text.0.len(), |above| above.line + 1);
            return Some(text.with(at, indent, block(depth)));
        };
        if entry.is_empty() {
            text.open(&entry);
            return Some(text.with(entry.line + 1, entry.indent + 2, block(depth + 1)));
        }
        entries = if depth < 2 { text.children(entry.opened()?, entry.end) } else { Vec::new() };
        above = Some(entry);
    }
    let endpoint = above?;
    if text.set_in_one_line(&endpoint, list) {
        return Some(text.0.concat());
    }
    let indent = text.keep_items(endpoint.opened()?, endpoint.end, list.get(1..)?)?;
    Some(text.with(endpoint.line + 1, indent, block(3)))
}

/// What has nothing in it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Emptied {
    Nothing,
    Endpoints,
    Registry,
    Mirrors,
}

/// A text in which a registry has only these of its endpoints, without what is empty then. `None`, and the caller's
/// part, as for [`extended`].
pub(in crate::cli) fn reduced(
    text: &str,
    registry: &str,
    list: &[String],
    emptied: Emptied,
) -> Option<String> {
    let mut text = Lines::of(text);
    let find = |entries: Vec<Entry>, name: &str| entries.into_iter().find(|entry| entry.key == name);
    let mirrors = find(text.children(0, text.0.len()), "mirrors")?;
    let mirror = find(text.children(mirrors.opened()?, mirrors.end), registry)?;
    let endpoint = find(text.children(mirror.opened()?, mirror.end), "endpoint")?;
    let gone = match emptied {
        Emptied::Nothing => None,
        Emptied::Endpoints => Some(endpoint.line..endpoint.end),
        Emptied::Registry => Some(mirror.line..mirror.end),
        Emptied::Mirrors => Some(mirrors.line..mirrors.end),
    };
    if let Some(gone) = gone {
        text.0.drain(gone);
    } else if !text.set_in_one_line(&endpoint, list) {
        text.keep_items(endpoint.opened()?, endpoint.end, list)?;
    }
    Some(text.0.concat())
}

/// A text for people: what is not below `mirrors` is not shown, since it may hold passwords in any form.
pub(in crate::cli) fn shown(text: &str) -> String {
    let mut is_mirrors = false;
    let mut shown = String::new();
    for line in text.split_inclusive('\n') {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if indent == 0 && !content.starts_with(['#', '-']) && !content.is_empty() {
            is_mirrors = entry(line).is_some_and(|entry| entry.key == "mirrors");
        }
        let is_ours = line.starts_with('#') && line.contains("`larder setup`");
        // A password may be in a URL and in a comment too.
        if content.is_empty() || is_ours || is_mirrors && !line.contains(['@', '#']) {
            shown.push_str(line);
        } else {
            shown.push_str(&format!("{}(not shown)\n", line.get(..indent).unwrap_or_default()));
        }
    }
    shown
}

/// Lines with their ends.
struct Lines(Vec<String>);

/// A key of a table in lines.
struct Entry {
    line: usize,
    /// Behind its last line; blanks and comments at the end are not its.
    end: usize,
    indent: usize,
    key: String,
    /// The line up to the colon.
    head: String,
    /// What is behind the colon, without a comment.
    value: String,
    comment: String,
}

impl Entry {
    fn is_empty(&self) -> bool {
        matches!(self.value.as_str(), "" | "~" | "null" | "{}" | "[]") && self.end == self.line + 1
    }

    /// The line below, if the value begins there.
    fn opened(&self) -> Option<usize> {
        (self.value.is_empty() && self.end > self.line + 1).then_some(self.line + 1)
    }

    fn written(&self, value: &str) -> String {
        let blank = if self.comment.is_empty() || self.comment.starts_with(['\r', '\n']) { "" } else { " " };
        format!("{}{value}{blank}{}", self.head, self.comment)
    }
}

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.split_inclusive('\n').map(str::to_owned).collect())
    }

    /// The keys of the table in these lines.
    fn children(&self, from: usize, to: usize) -> Vec<Entry> {
        let mut found: Vec<Entry> = Vec::new();
        for (at, line) in self.0.iter().enumerate().take(to).skip(from) {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') || content == "---" {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            let is_key =
                !content.starts_with('-') && found.first().is_none_or(|first| first.indent == indent);
            match entry(line).filter(|_| is_key) {
                Some(entry) => found.push(Entry { line: at, end: at + 1, ..entry }),
                None => found.iter_mut().rev().take(1).for_each(|last| last.end = at + 1),
            }
        }
        found
    }

    /// Makes room for a block where there was no value.
    fn open(&mut self, entry: &Entry) {
        if let Some(line) = self.0.get_mut(entry.line) {
            *line = entry.written("");
        }
    }

    /// The text with a block in it.
    fn with(mut self, at: usize, indent: usize, block: Vec<String>) -> String {
        let end = if self.0.first().is_some_and(|line| line.ends_with("\r\n")) { "\r\n" } else { "\n" };
        if let Some(last) = self.0.last_mut().filter(|last| !last.ends_with('\n')) {
            last.push_str(end);
        }
        let block = block.into_iter().map(|line| format!("{}{line}{end}", " ".repeat(indent)));
        drop(self.0.splice(at..at, block));
        self.0.concat()
    }

    /// Writes a list in one line where it was in one line.
    fn set_in_one_line(&mut self, entry: &Entry, list: &[String]) -> bool {
        let is_one =
            entry.value.starts_with('[') && entry.value.ends_with(']') && entry.end == entry.line + 1;
        if let Some(line) = self.0.get_mut(entry.line).filter(|_| is_one) {
            // JSON is YAML.
            *line = entry.written(&format!(" {}", Value::from(list)));
        }
        is_one
    }

    /// Removes those of a list's items that are not among these; returns how far they are indented.
    fn keep_items(&mut self, from: usize, end: usize, list: &[String]) -> Option<usize> {
        let mut indent = None;
        for at in (from..end).rev() {
            let line = self.0.get(at)?;
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            indent = Some(line.len() - line.trim_start().len());
            let items: Vec<String> = yaml::document(content).ok().filter(|_| content.starts_with('-'))?;
            if !items.iter().all(|item| list.contains(item)) {
                self.0.remove(at);
            }
        }
        indent
    }
}

/// A line that begins with a key.
fn entry(line: &str) -> Option<Entry> {
    let content = line.trim_start();
    let indent = line.len() - content.len();
    let length = match content.chars().next()? {
        quote @ ('"' | '\'') => content.get(1..)?.find(quote)? + 2,
        _ => content.match_indices(':').map(|(at, _)| at).find(|at| {
            content.get(at + 1..).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\r', '\n']))
        })?,
    };
    let key = content.get(..length)?;
    let rest = content.get(length..)?.strip_prefix(':')?;
    let is_comment = |at: &usize| *at == 0 || rest.get(..*at).is_some_and(|before| before.ends_with(' '));
    let until = rest.match_indices('#').map(|(at, _)| at).find(is_comment);
    let value = rest.get(..until.unwrap_or(rest.len()))?;
    // The end of the line stays.
    let until = until.unwrap_or(value.trim_end().len());
    Some(Entry {
        line: 0,
        end: 0,
        indent,
        key: key.trim_matches(['"', '\'']).to_owned(),
        head: line.get(..indent + length + 1)?.to_owned(),
        value: value.trim().to_owned(),
        comment: rest.get(until..)?.to_owned(),
    })
}

#[cfg(test)]
#[path = "registries_yaml_tests.rs"]
mod tests;
