//! The names of everything in Redis. Nothing else makes one.
//!
//! What must be changed together shares the part in braces, which keeps it on one node of a Redis cluster.

use crate::config::RedisConfig;
use crate::node::NodeId;
use crate::redis::recent::Places;
use redis::cluster_routing::Slot;
use uuid::Uuid;

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

    /// A hash: who is present in a place, `tenant:topic`.
    pub(crate) fn presence(&self, place: &str) -> String {
        format!("{}presence:{{{place}}}", self.prefix)
    }

    /// A hash: node to the time by which it must say that it lives.
    pub(crate) fn alive(&self) -> String {
        format!("{}{{nodes}}:alive", self.prefix)
    }

    /// A hash: dead node to the time until which somebody cleans up after it.
    pub(crate) fn dead(&self) -> String {
        format!("{}{{nodes}}:dead", self.prefix)
    }

    /// A string: changes when Redis has lost its data.
    pub(crate) fn epoch(&self) -> String {
        format!("{}{{nodes}}:epoch", self.prefix)
    }

    /// A string: when the last node said that it lives.
    pub(crate) fn beaten(&self) -> String {
        format!("{}{{nodes}}:beaten", self.prefix)
    }

    /// A set: the places in which a node may have presences.
    pub(crate) fn traces(&self, node: NodeId) -> String {
        format!("{}traces:{node}", self.prefix)
    }

    /// A string: the token of who holds a lease.
    pub(crate) fn lease(&self, name: &str) -> String {
        format!("{}lease:{{{name}}}", self.prefix)
    }

    /// A string: the last token of a lease.
    pub(crate) fn fence(&self, name: &str) -> String {
        format!("{}lease:{{{name}}}:token", self.prefix)
    }

    /// Where the kept publications of a topic are: in the slot of its channel, for one script writes and publishes them.
    /// None for the few names that leave no room for that.
    pub(crate) fn recent(&self, topic: &str) -> Option<Places> {
        let channel = self.channel(topic);
        let slot = Slot::for_key(&channel);
        let within = |kind: &str| format!("{}{kind}:{{{channel}}}", self.prefix);
        let behind = |kind: &str| format!("{channel}:{kind}");
        [
            Places {
                entries: within("recent"),
                last: within("last"),
                once: None,
            },
            Places {
                entries: behind("recent"),
                last: behind("last"),
                once: None,
            },
        ]
        .into_iter()
        .find(|places| Slot::for_key(&places.entries) == slot && Slot::for_key(&places.last) == slot)
    }

    /// A string: changes when publications that should have been kept may have been lost.
    pub(crate) fn recent_epoch(&self) -> String {
        format!("{}recent:epoch", self.prefix)
    }

    /// A stream.
    pub(crate) fn stream(&self, name: &str) -> String {
        format!("{}stream:{{{name}}}", self.prefix)
    }

    /// A key that nothing depends on.
    pub(crate) fn trace(&self, id: Uuid) -> String {
        format!("{}examined:{id}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let slot = Slot::for_key(keys().alive());
        assert_eq!(slot, Slot::for_key(keys().dead()));
        assert_eq!(slot, Slot::for_key(keys().epoch()));
    }

    #[test]
    fn what_is_kept_of_a_topic_is_in_the_slot_of_its_channel() {
        for topic in ["private:room", "a{b}c", "a{b", "{", "{x}{y}"] {
            let places = keys().recent(topic).unwrap();
            let slot = Slot::for_key(keys().channel(topic));
            assert_eq!(Slot::for_key(&places.entries), slot, "{topic}");
            assert_eq!(Slot::for_key(&places.last), slot, "{topic}");
            assert_ne!(places.entries, places.last);
        }
        assert!(keys().recent("a}b").is_none());
    }

    #[test]
    fn presences_are_kept_by_tenant_and_topic() {
        assert_eq!(keys().presence("t:room"), "walcast:presence:{t:room}");
    }
}
