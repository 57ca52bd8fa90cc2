//! Rings and double binary trees over nodes.
