//! The wanted paths as a trie, which a scan walks down as it reads names.

/// The wanted paths as a trie; node 0 is the root.
#[derive(Clone, Debug)]
pub(super) struct PathTrie {
    nodes: Vec<Node>,
}

impl Default for PathTrie {
    /// A trie that wants nothing.
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: Vec<Child>,
    slots: Vec<usize>,
    /// The slots of all nodes below.
    below: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Child {
    name: Box<[u8]>,
    /// The name's [`head`]: one comparison tells most names apart, and short ones wholly.
    head: u64,
    node: usize,
}

impl PathTrie {
    /// Wants the value at a path in a slot.
    pub(super) fn insert(&mut self, path: &[String], slot: usize) {
        let mut at = 0;
        for name in path {
            self.nodes[at].below.push(slot);
            let name = name.as_bytes();
            at = match self.child(at, name, name.len()) {
                Some(child) => child,
                None => {
                    self.nodes.push(Node::default());
                    let node = self.nodes.len() - 1;
                    let head = head(name, name.len());
                    self.nodes[at].children.push(Child { name: name.into(), head, node });
                    node
                }
            };
        }
        self.nodes[at].slots.push(slot);
    }

    /// The child whose name these bytes begin with, up to a length.
    #[inline]
    pub(super) fn child(&self, node: usize, bytes: &[u8], length: usize) -> Option<usize> {
        let (head, rest) = (head(bytes, length), &bytes[length.min(HEAD_BYTES)..length]);
        let is_it = |child: &&Child| {
            child.head == head
                && child.name.len() == length
                && (rest.is_empty() || child.name[HEAD_BYTES..] == *rest)
        };
        self.nodes[node].children.iter().find(is_it).map(|child| child.node)
    }

    /// The slots of a node.
    #[inline]
    pub(super) fn slots(&self, node: usize) -> &[usize] {
        &self.nodes[node].slots
    }

    /// The slots of all nodes below one.
    #[inline]
    pub(super) fn slots_below(&self, node: usize) -> &[usize] {
        &self.nodes[node].below
    }
}

const HEAD_BYTES: usize = 8;

/// The first eight bytes of a name of this length as a number; zeros follow a shorter name.
#[inline]
fn head(bytes: &[u8], length: usize) -> u64 {
    let beyond = 8 * HEAD_BYTES.saturating_sub(length) as u32;
    match bytes.first_chunk::<HEAD_BYTES>() {
        // What stands behind the name is not its own.
        Some(chunk) => u64::from_le_bytes(*chunk) & u64::MAX.checked_shr(beyond).unwrap_or(0),
        None => bytes[..length].iter().rev().fold(0, |head, byte| head << 8 | u64::from(*byte)),
    }
}
