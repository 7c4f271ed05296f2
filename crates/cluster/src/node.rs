//! Who is who among the nodes.

use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A process of the cluster. Every start is another node; so is a node that had been declared dead and came back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Uuid);

impl NodeId {
    /// A name nobody has.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// From the form it travels in.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The form it travels in.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_simple().fmt(formatter)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a node is named by 32 hexadecimal digits")]
pub struct NotANode;

impl FromStr for NodeId {
    type Err = NotANode;

    fn from_str(text: &str) -> Result<Self, NotANode> {
        if text.len() != 32 {
            return Err(NotANode);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| NotANode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_being_written() {
        let node = NodeId::random();
        assert_eq!(node.to_string().parse(), Ok(node));
        assert_eq!(NodeId::from_bytes(*node.as_bytes()), node);
    }

    #[test]
    fn other_text_names_nobody() {
        for text in [
            "",
            "x",
            "0e7cb4ce-c2d9-4b5c-9d3f-4bdbde28a2b1",
            "zz7cb4cec2d94b5c9d3f4bdbde28a2b1",
        ] {
            assert_eq!(text.parse::<NodeId>(), Err(NotANode), "{text}");
        }
    }
}
