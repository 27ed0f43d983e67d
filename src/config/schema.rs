//! What a section and a key are, and the one declaration that each of them has.
//!
//! [`section!`] declares a section of the configuration as a struct with one entry a key: whether a reload applies a
//! change of it, its name and type, how it is read, its default, and its sentence. Everything else follows from that:
//! reading with unknown keys refused, `larder config print`, `config/larder.toml`, the tables of
//! `docs/configuration.md`, environment variables, and which changes a reload applies.
//!
//! Deliberately not here: which sections there are (`section`), and what several keys mean together.

use std::path::Path;

use super::environment::Environment;
use super::file::{Entry, Node, Tree, Value};
use super::report::{Place, Report, nearest};
use super::value::{Kind, Shape};

/// Keys that are somewhere else than in an earlier version, with what stands in their place.
const MOVED: &[(&str, &str)] =
    &[("trusted_realms", "write trusted_realms in the [[registry]] section of each registry that it is for")];

/// What a change of a key needs while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// SIGHUP applies it.
    Reload,
    /// It counts from the next start.
    Restart,
}

/// A key as it is declared.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What it is for, in a sentence or a few.
    pub(super) what: String,
    pub(super) shape: Shape,
    pub(super) needs: Needs,
    /// A value to show for a key that has no default.
    pub(super) example: Option<&'static str>,
}

/// What defaults depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) environment: &'a Environment,
    /// `[server] state`; empty if there is none.
    pub(super) state: &'a Path,
}

/// A section of the configuration, as [`section!`] declares it.
pub(super) trait Section: Sized {
    /// Its name in a file, from the outermost: `freshness.rule`.
    const NAME: &'static str;

    /// What it is about.
    fn about() -> String;

    /// Its keys, in the order in which they are declared.
    fn keys() -> Vec<Key>;

    /// Reads it; a key that is absent has its default.
    fn read(reader: &mut Reader<'_>, context: &Context<'_>) -> Self;

    /// What the keys hold, in the order in which they are declared; `None` for a key that holds nothing.
    fn values(&self) -> Vec<Option<Value>>;

    /// The keys that hold something else than in `before`.
    fn changed(&self, before: &Self) -> Vec<&'static str>;
}

/// The keys of one section, handed out once each.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    place: Place<'a>,
    tree: Tree,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// The whole configuration.
    pub(super) fn new(tree: Tree, report: &'a Report) -> Self {
        Self { place: report.whole(), tree, known: Vec::new() }
    }

    /// A section that stands at `place`.
    pub(super) fn within(place: Place<'a>, tree: Tree) -> Self {
        Self { place, tree, known: Vec::new() }
    }

    /// What mistakes about this section as a whole are noted with.
    pub(super) fn place(&self) -> Place<'a> {
        self.place.clone()
    }

    /// The value of a key.
    pub(super) fn value<K: Kind>(&mut self, key: &'static str, kind: &K) -> Option<K::Value> {
        let Entry { node, source } = self.take(key)?;
        let place = self.place.key(key, Some(source));
        place.found();
        kind.read(&node.into_value(), &place)
    }

    /// The section `S`, which is within this one; empty if it is absent.
    pub(super) fn section<S: Section>(&mut self) -> Self {
        let (key, name) = (last_of(S::NAME), format!("[{}]", S::NAME));
        let tree = match self.take(key) {
            None => Tree::new(),
            Some(Entry { node: Node::Section(tree), .. }) => tree,
            Some(Entry { source, .. }) => {
                self.place.key(key, Some(source)).mistake(format!("expected a section: {name}"));
                Tree::new()
            }
        };
        Self { place: self.place.section(name), tree, known: Vec::new() }
    }

    /// All sections `S` within this one.
    pub(super) fn sections<S: Section>(&mut self) -> Vec<Self> {
        let (key, name) = (last_of(S::NAME), format!("[[{}]]", S::NAME));
        let trees = match self.take(key) {
            None => Vec::new(),
            Some(Entry { node: Node::Sections(trees), .. }) => trees,
            // An empty list within brackets.
            Some(Entry { node: Node::Value(Value::Array(all)), .. }) if all.is_empty() => Vec::new(),
            Some(Entry { source, .. }) => {
                self.place.key(key, Some(source)).mistake(format!("expected sections: {name}"));
                Vec::new()
            }
        };
        let place = |at: usize| self.place.section(format!("{name} {}", at + 1));
        let numbered = trees.into_iter().enumerate();
        numbered.map(|(at, tree)| Self { place: place(at), tree, known: Vec::new() }).collect()
    }

    /// Notes the keys that no declaration knows.
    pub(super) fn finish(self) {
        for (key, entry) in self.tree {
            let place = self.place.key(&key, Some(entry.source));
            if let Some((_, to)) = MOVED.iter().find(|(moved, _)| *moved == key) {
                place.mistake(format!("this key has moved: {to}"));
            } else if let Some(near) = nearest(&key, self.known.iter().copied()) {
                place.mistake(format!("unknown key; did you mean {near}?"));
            } else {
                place.mistake(format!("unknown key; known here: {}", self.known.join(", ")));
            }
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Entry> {
        self.known.push(key);
        self.tree.remove(key)
    }
}

/// What a field of a section may be: a value, or an optional one.
pub(super) trait Field<V>: Sized {
    /// The field for what was read.
    fn of(value: V) -> Self;

    /// What it holds.
    fn held(&self) -> Option<&V>;
}

impl<V> Field<V> for V {
    fn of(value: V) -> Self {
        value
    }

    fn held(&self) -> Option<&V> {
        Some(self)
    }
}

impl<V> Field<V> for Option<V> {
    fn of(value: V) -> Self {
        Some(value)
    }

    fn held(&self) -> Option<&V> {
        self.as_ref()
    }
}

/// Reads a field, or makes its default.
pub(super) fn read_field<K: Kind, F: Field<K::Value>>(
    reader: &mut Reader<'_>,
    key: &'static str,
    kind: &K,
    context: &Context<'_>,
    default: impl FnOnce(&Context<'_>) -> F,
) -> F {
    reader.value(key, kind).map_or_else(|| default(context), F::of)
}

/// Writes a field.
pub(super) fn write_field<K: Kind>(field: &impl Field<K::Value>, kind: &K) -> Option<Value> {
    field.held().map(|value| kind.write(value))
}

/// `freshness.rule` is `rule` within `freshness`.
fn last_of(name: &'static str) -> &'static str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The sentences of a declaration on one line.
pub(super) fn sentences(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// A key as it is in a file: `match` is a word of Rust's own.
pub(super) fn key_name(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// Declares a section:
///
/// ```text
/// section! {
///     /// What the section is about.
///     Server = "server";
///
///     /// How long a stop waits for bodies that are still being sent.
///     restart drain_wait: Duration = span(MILLISECOND..=HOUR), |_| Limits::default().drain_wait;
///
///     /// The file that holds the value of `gate_header`.
///     reload gate_file: Option<PathBuf> = path(), |_| None, example "\"/etc/larder/gate\"";
/// }
/// ```
///
/// A key says what a change of it needs (`reload` or `restart`), its name, its type, its kind (`value`), its default,
/// and an example (TOML) if it has no default. Its documentation is what operators read, in every place where they can.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $Section:ident = $name:literal;
        $(
            $(#[doc = $what:literal])+
            $needs:ident $key:ident: $Type:ty = $kind:expr, $default:expr $(, example $example:literal)?;
        )+
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $Section {
            $($(#[doc = $what])+ pub(crate) $key: $Type,)+
        }

        impl $crate::config::schema::Section for $Section {
            const NAME: &'static str = $name;

            fn about() -> String {
                $crate::config::schema::sentences(&[$($about),+])
            }

            fn keys() -> Vec<$crate::config::schema::Key> {
                vec![$($crate::config::schema::Key {
                    name: $crate::config::schema::key_name(stringify!($key)),
                    what: $crate::config::schema::sentences(&[$($what),+]),
                    shape: $crate::config::value::Kind::shape(&$kind),
                    needs: section!(@needs $needs),
                    example: [$($example)?].first().copied(),
                }),+]
            }

            fn read(
                reader: &mut $crate::config::schema::Reader<'_>,
                context: &$crate::config::schema::Context<'_>,
            ) -> Self {
                Self {
                    $($key: $crate::config::schema::read_field(
                        reader,
                        $crate::config::schema::key_name(stringify!($key)),
                        &$kind,
                        context,
                        $default,
                    ),)+
                }
            }

            fn values(&self) -> Vec<Option<$crate::config::file::Value>> {
                vec![$($crate::config::schema::write_field(&self.$key, &$kind)),+]
            }

            fn changed(&self, before: &Self) -> Vec<&'static str> {
                let mut changed = Vec::new();
                $(if self.$key != before.$key {
                    changed.push($crate::config::schema::key_name(stringify!($key)));
                })+
                changed
            }
        }
    };
    (@needs reload) => { $crate::config::schema::Needs::Reload };
    (@needs restart) => { $crate::config::schema::Needs::Restart };
}

pub(super) use section;
