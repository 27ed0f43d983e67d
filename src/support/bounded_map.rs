//! A map with a bound: when it is full, the entry that was used longest ago makes way for the new one.
//!
//! Everything that Larder remembers of what clients and registries send lies in such a map, so that ever new names cost
//! the daemon no memory and push out one old entry each, not all of them.
//!
//! Deliberately not here: a lock (each owner has its own) and an age (owners compare times where they read).

use std::borrow::Borrow;
use std::hash::Hash;

use lru::LruCache;

/// At most `entries_max` entries, in the order of their last use.
#[derive(Debug)]
pub struct BoundedMap<K: Hash + Eq, V> {
    entries: LruCache<K, V>,
    entries_max: usize,
}

impl<K: Hash + Eq, V> BoundedMap<K, V> {
    /// An empty map. Memory is taken as entries come, not ahead of them; a bound of zero counts as one.
    pub fn new(entries_max: usize) -> Self {
        Self { entries: LruCache::unbounded(), entries_max: entries_max.max(1) }
    }

    /// The value of a key, which counts as a use of it.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.entries.get_mut(key)
    }

    /// The value of a key, without counting as a use of it.
    pub fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.peek(key)
    }

    /// As [`Self::get`], with a key that is made only if there is any entry: where nothing is remembered, nothing is
    /// built to find that out.
    pub fn get_by(&mut self, key: impl FnOnce() -> K) -> Option<&mut V> {
        if self.is_empty() { None } else { self.entries.get_mut(&key()) }
    }

    /// Sets the value of a key and returns the entry that made way for it, or the key's value from before.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        let replaced = self.entries.push(key, value);
        if self.entries.len() > self.entries_max { self.entries.pop_lru() } else { replaced }
    }

    /// The value of a key, made if there is none.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V
    where
        K: Clone,
    {
        if !self.entries.contains(&key) {
            self.insert(key.clone(), make());
        }
        self.entries.get_or_insert_mut(key, || unreachable!("it was inserted just now"))
    }

    /// Removes a key.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.entries.pop(key)
    }

    /// As [`Self::remove`], with a key that is made only if there is any entry.
    pub fn remove_by(&mut self, key: impl FnOnce() -> K) -> Option<V> {
        if self.is_empty() { None } else { self.entries.pop(&key()) }
    }

    /// Removes the entry that was used longest ago.
    pub fn remove_oldest(&mut self) -> Option<(K, V)> {
        self.entries.pop_lru()
    }

    /// Removes every entry for which `keep` says no.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool)
    where
        K: Clone,
    {
        let gone: Vec<K> = self
            .entries
            .iter()
            .filter(|(key, value)| !keep(key, value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &gone {
            self.entries.pop(key);
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The entries, last used first.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_map_forgets_what_was_used_longest_ago_and_nothing_else() {
        let mut map = BoundedMap::new(2);
        assert_eq!(map.insert(1, "one"), None);
        assert_eq!(map.insert(2, "two"), None);
        assert_eq!(map.get(&1), Some(&mut "one"));
        assert_eq!(map.insert(3, "three"), Some((2, "two")));
        assert_eq!(map.insert(3, "drei"), Some((3, "three")));
        assert_eq!((map.peek(&1), map.peek(&2), map.len()), (Some(&"one"), None, 2));
        map.get_or_insert_with(4, || "four");
        assert_eq!(map.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [4, 3]);
        map.retain(|key, _| *key != 3);
        assert_eq!(map.remove_oldest(), Some((4, "four")));
        assert!(map.is_empty());
    }

    #[test]
    fn where_there_is_no_entry_no_key_is_made_to_look_for_one() {
        let mut map: BoundedMap<String, u8> = BoundedMap::new(2);
        assert_eq!(map.get_by(|| panic!("made")), None);
        assert_eq!(map.remove_by(|| panic!("made")), None);
        map.insert("a".to_owned(), 1);
        assert_eq!(map.get_by(|| "a".to_owned()), Some(&mut 1));
        assert_eq!(map.remove_by(|| "a".to_owned()), Some(1));
        assert!(map.is_empty());
    }
}
