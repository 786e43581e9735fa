//! The routing table: patterns in a tree of tokens. No I/O.
//!
//! ```text
//! root ─ "files" ─┬─ "changed"   files.changed
//!                 ├─ *           files.*
//!                 └─ >           files.>
//! ```

use std::collections::HashMap;

use crate::subject::{Pattern, Subject, is_reserved};

/// Values by pattern, which finds those whose pattern matches a subject.
///
/// A search visits at most the nodes of the tree, and a pattern has at most 16 of them.
#[derive(Debug)]
pub(crate) struct Trie<V> {
    root: Node<V>,
}

#[derive(Debug)]
struct Node<V> {
    tokens: HashMap<Box<str>, Node<V>>,
    /// The wildcard for one token.
    any: Option<Box<Node<V>>>,
    /// The values whose pattern ends here.
    here: Vec<V>,
    /// The values whose pattern ends with the wildcard for one or more tokens.
    rest: Vec<V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { tokens: HashMap::new(), any: None, here: Vec::new(), rest: Vec::new() }
    }
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<V> Trie<V> {
    /// Adds a value. A pattern may have any number of them.
    pub(crate) fn insert(&mut self, pattern: &Pattern, value: V) {
        let mut node = &mut self.root;
        for token in pattern.tokens() {
            match token {
                ">" => return node.rest.push(value),
                "*" => node = node.any.get_or_insert_default(),
                _ => node = node.tokens.entry(token.into()).or_default(),
            }
        }
        node.here.push(value);
    }

    /// Removes the first value of this pattern for which `is_it` returns true, and returns it.
    pub(crate) fn remove(&mut self, pattern: &Pattern, is_it: impl Fn(&V) -> bool) -> Option<V> {
        self.root.remove(&mut pattern.tokens(), &is_it)
    }

    /// Calls `found` with each value whose pattern matches the subject.
    pub(crate) fn visit<'a>(&'a self, subject: &Subject, found: &mut impl FnMut(&'a V)) {
        let text = subject.as_str();
        let is_hidden = text.split('.').next().is_some_and(is_reserved);
        self.root.visit(Some(text), is_hidden, found);
    }
}

impl<V> Node<V> {
    fn remove<'p>(
        &mut self,
        tokens: &mut impl Iterator<Item = &'p str>,
        is_it: &impl Fn(&V) -> bool,
    ) -> Option<V> {
        let take = |values: &mut Vec<V>| {
            let place = values.iter().position(is_it)?;
            Some(values.remove(place))
        };
        match tokens.next() {
            None => take(&mut self.here),
            Some(">") => take(&mut self.rest),
            Some("*") => {
                let next = self.any.as_mut()?;
                let removed = next.remove(tokens, is_it);
                if next.is_unused() {
                    self.any = None;
                }
                removed
            }
            Some(token) => {
                let next = self.tokens.get_mut(token)?;
                let removed = next.remove(tokens, is_it);
                if next.is_unused() {
                    self.tokens.remove(token);
                }
                removed
            }
        }
    }

    fn is_unused(&self) -> bool {
        self.here.is_empty() && self.rest.is_empty() && self.any.is_none() && self.tokens.is_empty()
    }

    /// Visits the matches below this node for the rest of a subject. If `is_hidden`, wildcards do not
    /// match its first token.
    fn visit<'a>(&'a self, rest: Option<&str>, is_hidden: bool, found: &mut impl FnMut(&'a V)) {
        let Some(rest) = rest else { return self.here.iter().for_each(found) };
        let (token, after) = match rest.split_once('.') {
            Some((token, after)) => (token, Some(after)),
            None => (rest, None),
        };
        if let Some(next) = self.tokens.get(token) {
            next.visit(after, false, found);
        }
        if is_hidden {
            return;
        }
        if let Some(next) = &self.any {
            next.visit(after, false, found);
        }
        self.rest.iter().for_each(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tieline_testkit::random::Random;

    #[test]
    fn random_patterns_are_found_as_in_a_naive_list() {
        let seed = 88_172;
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut trie = Trie::default();
        let mut list: Vec<(Pattern, u64)> = Vec::new();
        let mut most = 0;
        for step in 0..100_000_u64 {
            match random.below(10) {
                0..=2 if list.len() < 60 => {
                    let pattern = Pattern::new(&text(&mut random, true)).unwrap();
                    trie.insert(&pattern, step);
                    list.push((pattern, step));
                }
                3..=4 if !list.is_empty() => {
                    let (pattern, value) =
                        list.swap_remove(random.below(list.len() as u64) as usize);
                    assert_eq!(trie.remove(&pattern, |it| *it == value), Some(value));
                    assert_eq!(trie.remove(&pattern, |it| *it == value), None);
                }
                _ => {
                    let subject = Subject::new(&text(&mut random, false)).unwrap();
                    let mut found = Vec::new();
                    trie.visit(&subject, &mut |it| found.push(*it));
                    found.sort_unstable();
                    let matching = list.iter().filter(|(it, _)| naive(it, &subject));
                    let mut expected: Vec<_> = matching.map(|(_, value)| *value).collect();
                    expected.sort_unstable();
                    assert_eq!(found, expected, "step {step}: {subject}");
                    most = most.max(found.len());
                }
            }
        }
        assert!(most > 5, "at most {most} matches");
        for (pattern, value) in &list {
            assert_eq!(trie.remove(pattern, |it| it == value), Some(*value));
        }
        assert!(trie.root.is_unused(), "{trie:?}");
    }

    fn text(random: &mut Random, wildcards: bool) -> String {
        let names = ["a", "b", "c", "tl", "_INBOX"];
        let length = 1 + random.below(4);
        let mut tokens: Vec<_> = (0..length)
            .map(|_| if wildcards && random.percent(25) { "*" } else { random.pick(&names) })
            .collect();
        if wildcards && random.percent(20) {
            tokens.push(">");
        }
        tokens.join(".")
    }

    fn naive(pattern: &Pattern, subject: &Subject) -> bool {
        let tokens: Vec<_> = subject.tokens().collect();
        let patterns: Vec<_> = pattern.tokens().collect();
        let is_reserved = ["tl", "_INBOX"].contains(&tokens[0]);
        if is_reserved && patterns[0] != tokens[0] {
            return false;
        }
        let is_open = patterns.last() == Some(&">");
        let fixed = patterns.len() - usize::from(is_open);
        let fits = if is_open { tokens.len() > fixed } else { tokens.len() == fixed };
        fits && (0..fixed).all(|at| patterns[at] == "*" || patterns[at] == tokens[at])
    }
}
