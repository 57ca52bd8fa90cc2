//! A rooted tree over the labels `0..n`.
//!
//! It knows neither how it was made nor what travels over its edges. Invariant of every tree made by this crate: it spans all
//! labels, has one root, and each list of children ascends, so that a tree is a function of its parents alone. A plan adds a
//! node's children in list order, so this order fixes the order of addition.

/// A rooted spanning tree over the labels `0..n`.
///
/// The fields are public to be read; make trees with [`Tree::from_parents`], which checks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// For each label its parent; `None` at the root only.
    pub parent: Vec<Option<usize>>,
    /// For each label its children, in ascending order.
    pub children: Vec<Vec<usize>>,
    /// The label without a parent.
    pub root: usize,
}

impl Tree {
    /// The tree in which label `v` hangs under `parent[v]`.
    ///
    /// # Panics
    /// When the parents do not describe one tree over all labels: no root or more than one, a parent outside `0..n`, a cycle.
    pub fn from_parents(parent: Vec<Option<usize>>) -> Tree {
        let n = parent.len();
        let mut children = vec![Vec::new(); n];
        let mut root = None;
        for (v, up) in parent.iter().enumerate() {
            match *up {
                Some(up) => {
                    assert!(
                        up < n,
                        "label {v} has the parent {up}, but there are only {n} labels"
                    );
                    children[up].push(v);
                }
                None => {
                    assert!(
                        root.is_none(),
                        "labels {root:?} and {v} are both without a parent"
                    );
                    root = Some(v);
                }
            }
        }
        let root = root.expect("a tree needs one label without a parent");
        let tree = Tree {
            parent,
            children,
            root,
        };
        // Every label but the root has one parent, so what the root does not reach hangs in a cycle.
        let reached = tree.top_down().len();
        assert!(
            reached == n,
            "{} of {n} labels hang in a cycle",
            n - reached
        );
        tree
    }

    /// Number of labels.
    #[allow(clippy::len_without_is_empty)] // a tree has at least its root
    pub fn len(&self) -> usize {
        self.parent.len()
    }

    /// All labels, parents before children: level by level from the root, children in list order.
    pub fn top_down(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.len());
        order.push(self.root);
        let mut seen = 0;
        while seen < order.len() {
            order.extend_from_slice(&self.children[order[seen]]);
            seen += 1;
        }
        order
    }

    /// All labels, children before parents: the reverse of [`Tree::top_down`].
    pub fn bottom_up(&self) -> Vec<usize> {
        let mut order = self.top_down();
        order.reverse();
        order
    }

    /// Edges on the longest way from the root to a leaf; 0 for a single node.
    pub fn depth(&self) -> usize {
        let mut level = vec![0; self.len()];
        for v in self.top_down() {
            if let Some(up) = self.parent[v] {
                level[v] = level[up] + 1;
            }
        }
        level.into_iter().max().unwrap_or(0)
    }

    /// Whether `v` has no children.
    pub fn is_leaf(&self, v: usize) -> bool {
        self.children[v].is_empty()
    }

    /// Edges at `v`: its children, and its parent unless it is the root.
    pub fn degree(&self, v: usize) -> usize {
        self.children[v].len() + usize::from(self.parent[v].is_some())
    }

    /// The same shape with all labels moved on alike, modulo their number, so that `root` is the root.
    pub fn turned_to(&self, root: usize) -> Tree {
        let n = self.len();
        let names: Vec<usize> = (0..n).map(|v| (v + n + root - self.root) % n).collect();
        self.relabel(&names)
    }

    /// The same shape with other labels: what is called `v` here is called `names[v]` there.
    ///
    /// # Panics
    /// When `names` is not a permutation of `0..n`.
    pub fn relabel(&self, names: &[usize]) -> Tree {
        let n = self.len();
        assert!(names.len() == n, "{} names for {n} labels", names.len());
        let mut parent = vec![None; n];
        let mut named = vec![false; n];
        for (v, &name) in names.iter().enumerate() {
            assert!(
                name < n && !named[name],
                "name {name} of label {v} is used twice or is not below {n}"
            );
            named[name] = true;
            parent[name] = self.parent[v].map(|up| names[up]);
        }
        Tree::from_parents(parent)
    }
}
