//! The names of members as earlier payloads had them: publishers write the same ones in the same
//! order, some left out, so that a few bytes compared tell most names from what was expected.
//!
//! The names of an object, told by its path, are a chain in the order in which they come. After one
//! name the next is looked for behind it in the chain, and then from the chain's beginning. What is
//! expected only ever saves time: a name counts once all its bytes are the same, and what is not
//! found is read.

use super::trie::PathTrie;

/// The most of a payload that a name is looked for in. A longer one, with its quotes and its colon, is
/// read each time.
const WINDOW_BYTES: usize = 24;

/// What a payload goes on with, in words that are compared at once.
type Window = [u64; WINDOW_BYTES / 8];

/// Of an object with more names, those after the first so many are read each time.
const CHAIN_MAX: usize = 32;

/// How often a full chain may miss one: the names of such an object are values of their own (ids,
/// dates), and to look for them costs more than to read them.
const MISSES_MAX: u8 = 64;

/// In more objects than these names are read each time: no publisher has so many, an enemy may.
const CHAINS_MAX: usize = 1024;

/// A member of an object, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Where the trie has its path.
    pub(super) node: Option<usize>,
    /// Where it is an object, the chain of its names: a chain stands for one path.
    chain: Option<usize>,
}

impl Member {
    /// The payload itself.
    pub(super) const ROOT: Self = Self { node: Some(0), chain: Some(0) };

    /// One that nobody looks for, as are those in lists.
    pub(super) const UNKNOWN: Self = Self::unnamed(None);

    /// One whose name is not noted.
    pub(super) const fn unnamed(node: Option<usize>) -> Self {
        Self { node, chain: None }
    }
}

/// Where among the names of its object a scan is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    chain: usize,
    /// The name that should come next.
    next: usize,
}

/// The names that the payloads of a batch had so far.
#[derive(Debug)]
pub(super) struct Names<'t> {
    trie: &'t PathTrie,
    chains: Vec<Chain>,
}

/// The names of one object.
#[derive(Debug, Default)]
struct Chain {
    names: Vec<Name>,
    misses: u8,
}

#[derive(Debug)]
struct Name {
    /// `"name":`, and zeros behind it.
    token: Window,
    /// The bits of a window that are the token's.
    mask: Window,
    length: usize,
    member: Member,
}

impl<'t> Names<'t> {
    /// Nothing is expected yet.
    pub(super) fn new(trie: &'t PathTrie) -> Self {
        Self { trie, chains: vec![Chain::default()] }
    }

    /// The paths that are wanted.
    #[inline]
    pub(super) fn trie(&self) -> &'t PathTrie {
        self.trie
    }

    /// The place before all names of an object.
    #[inline]
    pub(super) fn inside(&self, object: Member) -> Option<Place> {
        object.chain.map(|chain| Place { chain, next: 0 })
    }

    /// The member whose name and colon these bytes begin with, and how long the two are. Where there
    /// are few bytes, it is read.
    #[inline]
    pub(super) fn guess(&self, place: &mut Place, bytes: &[u8]) -> Option<(Member, usize)> {
        let window = window(bytes.first_chunk()?);
        let names = &self.chains[place.chain].names;
        let (before, behind) = names.split_at_checked(place.next)?;
        let find = |names: &[Name]| names.iter().position(|name| name.is_in(&window));
        let found = match find(behind) {
            Some(at) => place.next + at,
            None => find(before)?,
        };
        place.next = found + 1;
        Some((names[found].member, names[found].length))
    }

    /// Notes a name that was not expected: as it is written with its quotes and its colon, and where
    /// it leads in the trie.
    #[cold]
    pub(super) fn learn(&mut self, place: &mut Place, token: &[u8], node: Option<usize>) -> Member {
        let own = self.chains.len();
        let chain = &mut self.chains[place.chain];
        if chain.names.len() == CHAIN_MAX || chain.misses == MISSES_MAX {
            chain.misses = MISSES_MAX.min(chain.misses + 1);
            if chain.misses == MISSES_MAX {
                chain.names.clear();
            }
            return Member::unnamed(node);
        }
        let mut padded = [0; WINDOW_BYTES];
        let Some(written) = padded.get_mut(..token.len()).filter(|_| own < CHAINS_MAX) else {
            return Member::unnamed(node);
        };
        written.copy_from_slice(token);
        // No name holds a zero.
        let mask = padded.map(|byte| if byte == 0 { 0 } else { u8::MAX });
        let member = Member { node, chain: Some(own) };
        let (token, mask, length) = (window(&padded), window(&mask), token.len());
        // The same bytes may be there: a payload's last ones are too few for a guess.
        let twin = chain.names.iter().position(|name| name.token == token);
        let at = twin.unwrap_or(place.next.min(chain.names.len()));
        place.next = at + 1;
        if twin.is_some() {
            return chain.names[at].member;
        }
        chain.names.insert(at, Name { token, mask, length, member });
        self.chains.push(Chain::default());
        member
    }
}

impl Name {
    #[inline]
    fn is_in(&self, window: &Window) -> bool {
        let differs = |at: usize| (window[at] ^ self.token[at]) & self.mask[at];
        // The first words tell most names apart.
        differs(0) == 0 && differs(1) | differs(2) == 0
    }
}

#[inline]
fn window(bytes: &[u8; WINDOW_BYTES]) -> Window {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_le_bytes(words[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans an object's names, given as they are written; those that were expected.
    fn expected<'n>(names: &mut Names<'_>, object: Member, written: &[&'n str]) -> Vec<&'n str> {
        let mut place = names.inside(object).unwrap();
        let mut found = Vec::new();
        for name in written {
            let text = format!("\"{name}\":1,\"and\":\"so on, and further\"");
            match names.guess(&mut place, text.as_bytes()) {
                Some((_, length)) => {
                    assert_eq!(length, name.len() + 3);
                    found.push(*name);
                }
                None => {
                    names.learn(&mut place, &text.as_bytes()[..name.len() + 3], None);
                }
            }
        }
        found
    }

    #[test]
    fn names_are_expected_where_some_are_left_out_and_in_another_order() {
        let trie = PathTrie::default();
        let mut names = Names::new(&trie);
        let mut scan = |written: &[&'static str]| expected(&mut names, Member::ROOT, written);
        assert!(scan(&["id", "type", "user", "note"]).is_empty());
        assert_eq!(scan(&["id", "user", "note"]), ["id", "user", "note"]);
        assert_eq!(scan(&["id", "session", "user"]), ["id", "user"]);
        assert_eq!(scan(&["note", "session", "id", "id"]), ["note", "session", "id", "id"]);
        // One that begins like another is another.
        assert!(scan(&["i", "idx", "i\\u0064"]).is_empty());
        assert_eq!(scan(&["idx", "i", "id"]), ["idx", "i", "id"]);
    }

    #[test]
    fn an_object_has_names_of_its_own() {
        let trie = PathTrie::default();
        let mut names = Names::new(&trie);
        let mut place = names.inside(Member::ROOT).unwrap();
        let inner = names.learn(&mut place, b"\"a\":", None);
        assert!(expected(&mut names, inner, &["b"]).is_empty());
        assert!(expected(&mut names, Member::ROOT, &["b"]).is_empty());
        assert_eq!(expected(&mut names, inner, &["a", "b"]), ["b"]);
        assert!(names.inside(Member::UNKNOWN).is_none());
    }

    #[test]
    fn where_few_bytes_are_left_names_are_read_and_not_noted_twice() {
        let trie = PathTrie::default();
        let mut names = Names::new(&trie);
        let mut place = names.inside(Member::ROOT).unwrap();
        let end = b"\"a\":1}";
        assert_eq!(names.guess(&mut place, end), None);
        let member = names.learn(&mut place, &end[..4], None);
        assert_eq!(names.guess(&mut place, end), None);
        assert_eq!(names.learn(&mut place, &end[..4], None), member);
        assert_eq!(expected(&mut names, Member::ROOT, &["a", "b"]), ["a"]);
    }

    #[test]
    fn long_names_are_read_each_time() {
        let trie = PathTrie::default();
        let mut names = Names::new(&trie);
        let (fits, long) = ("n".repeat(WINDOW_BYTES - 3), "n".repeat(WINDOW_BYTES - 2));
        for _ in 0..2 {
            expected(&mut names, Member::ROOT, &[&fits, &long]);
        }
        assert_eq!(expected(&mut names, Member::ROOT, &[&fits, &long]), [&fits]);
    }

    #[test]
    fn names_that_are_values_are_not_looked_for() {
        let trie = PathTrie::default();
        let mut names = Names::new(&trie);
        let ids: Vec<String> = (0..1_000).map(|id| format!("user-{id}")).collect();
        for id in &ids[..40] {
            expected(&mut names, Member::ROOT, &[id]);
        }
        assert_eq!(expected(&mut names, Member::ROOT, &[&ids[7]]), [&ids[7]]);
        for id in &ids {
            expected(&mut names, Member::ROOT, &[id]);
        }
        assert!(expected(&mut names, Member::ROOT, &[&ids[7]]).is_empty());
        assert_eq!(names.chains.len(), 1 + CHAIN_MAX);
    }
}
