//! The limit on changes a second (`protocol.md 9`).

use crate::scene::{Scene, all, service, table};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use walcast_changes::{Meter, Options};

#[derive(Default)]
struct Switch {
    counted: AtomicUsize,
    exceeded: AtomicBool,
}

impl Meter for Switch {
    fn count(&self, matched: usize) {
        self.counted.fetch_add(matched, Ordering::SeqCst);
    }

    fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn above_the_limit_changes_are_dropped_and_each_channel_is_told_once() {
    let switch = Arc::new(Switch::default());
    let options = Options {
        meter: Some(Arc::clone(&switch) as Arc<dyn Meter>),
        ..Options::default()
    };
    let scene = Scene::with(&table("t", "id int primary key"), options).await;
    let mut one = scene.listen(service(), all("t")).await;
    let mut two = scene.listen(service(), all("t")).await;
    scene.run("insert into t values (1)").await;
    assert_eq!((one.id().await, two.id().await), (1, 1));
    assert_eq!(switch.counted.load(Ordering::SeqCst), 2);
    switch.exceeded.store(true, Ordering::SeqCst);
    scene.run("insert into t values (2)").await;
    scene.run("insert into t values (3)").await;
    for listener in [&mut one, &mut two] {
        let (status, text) = listener.system().await;
        assert_eq!(status, "error");
        assert!(text.contains("more changes a second than are allowed"), "{text}");
    }
    while switch.counted.load(Ordering::SeqCst) < 6 {
        tokio::task::yield_now().await;
    }
    switch.exceeded.store(false, Ordering::SeqCst);
    scene.run("insert into t values (4)").await;
    assert_eq!((one.id().await, two.id().await), (4, 4));
}
