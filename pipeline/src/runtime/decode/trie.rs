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
    node: usize,
}

impl PathTrie {
    /// Wants the value at a path in a slot.
    pub(super) fn insert(&mut self, path: &[String], slot: usize) {
        let mut at = 0;
        for name in path {
            self.nodes[at].below.push(slot);
            let name = name.as_bytes();
            at = match self.child(at, name) {
                Some(child) => child,
                None => {
                    self.nodes.push(Node::default());
                    let node = self.nodes.len() - 1;
                    self.nodes[at].children.push(Child { name: name.into(), node });
                    node
                }
            };
        }
        self.nodes[at].slots.push(slot);
    }

    /// The child with this name.
    pub(super) fn child(&self, node: usize, name: &[u8]) -> Option<usize> {
        let is_it = |child: &&Child| *child.name == *name;
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
