//! The names of everything in Redis. Nothing else makes one.
//!
//! What must be changed together shares the part in braces, which keeps it on one node of a Redis cluster.

use crate::config::RedisConfig;

/// Names under a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
    /// Channels are shared by all databases of a Redis, so their names tell them apart.
    bus: String,
}

impl Keys {
    pub(crate) fn new(config: &RedisConfig) -> Self {
        let prefix = config.prefix.clone();
        let bus = format!("{prefix}bus:{}:", config.database);
        Self { prefix, bus }
    }

    /// The channel of a topic.
    pub(crate) fn channel(&self, topic: &str) -> String {
        format!("{}{topic}", self.bus)
    }

    /// The topic of a channel.
    pub(crate) fn topic<'a>(&self, channel: &'a str) -> Option<&'a str> {
        channel.strip_prefix(&self.bus)
    }

    /// A string: the token of who holds a lease.
    pub(crate) fn lease(&self, name: &str) -> String {
        format!("{}lease:{{{name}}}", self.prefix)
    }

    /// A string: the last token of a lease.
    pub(crate) fn fence(&self, name: &str) -> String {
        format!("{}lease:{{{name}}}:token", self.prefix)
    }

    /// A stream.
    pub(crate) fn stream(&self, name: &str) -> String {
        format!("{}stream:{{{name}}}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::cluster_routing::Slot;

    fn keys() -> Keys {
        Keys::new(&RedisConfig::from_url("redis://h/2").unwrap())
    }

    #[test]
    fn a_channel_tells_its_topic() {
        for topic in ["", "room", "a{b}c", "bus:0:x"] {
            assert_eq!(keys().topic(&keys().channel(topic)), Some(topic));
        }
        assert_eq!(keys().topic("walcast:bus:3:room"), None);
    }

    #[test]
    fn keys_that_are_changed_together_share_a_slot() {
        for name in ["changes", "a}b", "{", "a{b}"] {
            assert_eq!(
                Slot::for_key(keys().lease(name)),
                Slot::for_key(keys().fence(name))
            );
        }
    }
}
