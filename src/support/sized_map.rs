//! A map with a bound of entries and one of bytes, for what strangers can make large and many: when it is full, the
//! entries that were used longest ago make way.

use std::borrow::Borrow;
use std::hash::Hash;

use super::bounded_map::BoundedMap;

/// At most `entries_max` entries of `bytes_max` bytes together, in the order of their last use.
#[derive(Debug)]
pub struct SizedMap<K: Hash + Eq, V> {
    entries: BoundedMap<K, (V, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Hash + Eq, V> SizedMap<K, V> {
    /// An empty map.
    pub fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self { entries: BoundedMap::new(entries_max), bytes: 0, bytes_max }
    }

    /// The value of a key, which counts as a use of it.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// Sets the value of a key, which counts for so many `bytes`. One that takes more than all may is
    /// not kept.
    pub fn insert(&mut self, key: K, value: V, bytes: usize) {
        self.remove(&key);
        if bytes > self.bytes_max {
            return;
        }
        self.bytes += bytes;
        if let Some((_, (_, freed))) = self.entries.insert(key, (value, bytes)) {
            self.bytes -= freed;
        }
        while self.bytes > self.bytes_max
            && let Some((_, (_, freed))) = self.entries.remove_oldest()
        {
            self.bytes -= freed;
        }
    }

    /// Removes a key.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (value, freed) = self.entries.remove(key)?;
        self.bytes -= freed;
        Some(value)
    }

    /// Removes every entry for which `keep` says no.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool)
    where
        K: Clone,
    {
        let mut left = 0;
        self.entries.retain(|key, (value, bytes)| {
            let keeps = keep(key, value);
            left += if keeps { *bytes } else { 0 };
            keeps
        });
        self.bytes = left;
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// The entries, last used first.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (value, _))| (key, value))
    }

    /// The bytes of all entries.
    pub fn bytes(&self) -> usize {
        self.bytes
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
    fn what_is_kept_takes_no_more_bytes_than_it_may_and_the_oldest_goes_first() {
        let mut map = SizedMap::new(3, 10);
        map.insert(1, "one", 4);
        map.insert(2, "two", 4);
        assert_eq!(map.get(&1), Some(&mut "one"));
        map.insert(3, "three", 4);
        assert_eq!(map.get(&2), None);
        assert_eq!((map.len(), map.bytes()), (2, 8));
        map.insert(3, "drei", 2);
        assert_eq!(map.get(&3), Some(&mut "drei"));
        assert_eq!((map.len(), map.bytes()), (2, 6));
        map.insert(4, "larger than all may be", 11);
        map.insert(3, "larger than all may be", 11);
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&1, &"one")]);
        for key in 5..9 {
            map.insert(key, "small", 1);
        }
        assert_eq!((map.len(), map.bytes()), (3, 3), "there is a bound of entries too");
        map.retain(|key, _| *key != 8);
        assert_eq!(map.bytes(), 2);
        assert_eq!(map.remove(&7), Some("small"));
        assert_eq!(map.bytes(), 1);
        map.clear();
        assert!(map.is_empty() && map.bytes() == 0);
    }
}
