//! Members who come, track, and go, in the room and out of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::*;
use crate::scene::{Channel, Scene, TOPIC_BYTES, WINDOW};

#[tokio::test]
async fn without_a_window_each_change_is_told_at_once_to_everybody() {
    let scene = Scene::alone(Duration::ZERO);
    let (mut ada, ben) = (scene.join("ada", false), scene.join("ben", false));
    assert_eq!(ada.track(1), Tracked::Changed);
    assert_eq!(ada.track(1), Tracked::Same);
    assert_eq!(ada.track(2), Tracked::Changed);
    ada.presence.untrack();
    ada.presence.untrack();
    assert_eq!((ada.diffs().len(), ben.diffs().len()), (3, 3));
    assert_eq!(scene.counted.told.load(Ordering::Relaxed), 6);
    assert_eq!(scene.presences.topics(), 0);
}

#[tokio::test(start_paused = true)]
async fn changes_within_a_window_travel_as_one_diff_at_its_end() {
    let scene = Scene::alone(WINDOW);
    let (mut ada, mut ben) = (scene.join("ada", false), scene.join("ben", false));
    ada.track(1);
    tokio::time::sleep(WINDOW / 2).await;
    ben.track(1);
    assert!(ada.diffs().is_empty());
    tokio::time::sleep(WINDOW).await;
    let diffs = ada.diffs();
    assert_eq!(diffs, ben.diffs());
    let [diff] = &diffs[..] else { panic!("{diffs:?}") };
    let diff: Value = serde_json::from_str(diff).unwrap();
    assert_eq!(diff["joins"].as_object().unwrap().len(), 2);
    assert_eq!(diff["leaves"], serde_json::json!({}));
}

#[tokio::test(start_paused = true)]
async fn who_comes_within_a_window_gets_the_state_of_its_beginning_and_the_diff_of_its_end() {
    let scene = Scene::alone(WINDOW);
    let mut ada = scene.join("ada", false);
    ada.track(1);
    tokio::time::sleep(2 * WINDOW).await;
    ada.track(2);
    let mut ben = scene.join("ben", false);
    ben.track(1);
    tokio::time::sleep(2 * WINDOW).await;
    let late = scene.join("carl", false);
    assert_eq!(ben.merged().known(), late.merged().known());
    assert_eq!(ada.merged().known(), late.merged().known());
}

#[tokio::test(start_paused = true)]
async fn what_a_channel_tracked_ends_with_it() {
    let scene = Scene::alone(WINDOW);
    let (mut ada, ben) = (scene.join("ada", false), scene.join("ben", false));
    ada.track(1);
    tokio::time::sleep(2 * WINDOW).await;
    assert_eq!(scene.counted.present.load(Ordering::Relaxed), 1);
    drop(ada);
    assert_eq!(scene.counted.present.load(Ordering::Relaxed), 0);
    tokio::time::sleep(2 * WINDOW).await;
    assert!(ben.merged().known().is_empty());
    assert_eq!(scene.presences.topics(), 0);
}

#[tokio::test]
async fn public_and_private_topics_of_one_name_never_mix() {
    let scene = Scene::alone(Duration::ZERO);
    let (mut public, private) = (scene.join("ada", false), scene.join("ben", true));
    public.track(1);
    assert_eq!((public.diffs().len(), private.diffs().len()), (1, 0));
    assert_eq!(scene.join("carl", true).state.as_deref(), Some("{}"));
}

#[tokio::test]
async fn a_member_apart_hears_frames_with_its_own_reference_until_it_goes() {
    let scene = Scene::alone(Duration::ZERO);
    let mut ada = scene.join("ada", true);
    let mut ben = scene.join_without("ben", true);
    ada.track(1);
    assert!(ben.diffs().is_empty());
    let outlet = Arc::clone(&ben.inbox) as Arc<dyn Outlet>;
    ben.presence.hear_apart(Version::V2, &Ref::from_text("7"), outlet);
    ada.track(2);
    let frame = ben.inbox.0.lock().unwrap()[0].clone();
    assert!(
        frame
            .bytes()
            .starts_with(br#"["7",null,"realtime:room","presence_diff","#)
    );
    let inbox = Arc::clone(&ben.inbox);
    drop(ben);
    ada.track(3);
    assert_eq!(inbox.0.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_payload_must_be_an_object_and_find_room() {
    let scene = Scene::alone(Duration::ZERO);
    let mut ada = scene.join("ada", false);
    ada.track(1);
    let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(TOPIC_BYTES));
    for (payload, error) in [
        ("[]", TrackError::NotAnObject),
        ("null", TrackError::NotAnObject),
        (&long, TrackError::Full),
    ] {
        assert_eq!(ada.presence.track(payload), Err(error));
    }
    assert_eq!(ada.merged().known()["ada"].metas[0]["n"], 1);
}

/// Channels come, track and go on several threads at once, for windows that end whenever they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_threads_meet_every_member_knows_in_the_end_what_is() {
    for window in [Duration::ZERO, Duration::from_micros(200)] {
        let scene = Arc::new(Scene::alone(window));
        let witness = scene.join("witness", false);
        let coming = (0..4).map(|thread: usize| {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move {
                let mut here: Vec<Channel> = Vec::new();
                for _ in 0..200 {
                    match rand::random_range(0..10_usize) {
                        0 | 1 => here.push(scene.join(&format!("key {}", thread % 3), false)),
                        2 if !here.is_empty() => drop(here.swap_remove(rand::random_range(0..here.len()))),
                        act if !here.is_empty() => {
                            let chosen = rand::random_range(0..here.len());
                            match act {
                                3 | 4 => here[chosen].presence.untrack(),
                                _ => _ = here[chosen].track(rand::random_range(0..4)),
                            }
                        }
                        _ => {}
                    }
                    tokio::task::yield_now().await;
                }
                let mut last = scene.join("last", false);
                last.track(0);
                here.push(last);
                here
            })
        });
        let mut here = Vec::new();
        for thread in coming.collect::<Vec<_>>() {
            here.extend(thread.await.unwrap());
        }
        let is_due = |floor: &Floor| floor.iter().any(|topic| topic.lock().is_due);
        while is_due(&scene.presences.public) {
            tokio::task::yield_now().await;
        }
        let truth = scene.join("late", false).merged().known();
        assert_eq!(truth["last"].metas.len(), 4);
        assert_eq!(witness.merged().known(), truth);
        for channel in &here {
            assert_eq!(channel.merged().known(), truth);
        }
        drop(here);
        while scene.presences.topics() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(scene.counted.present.load(Ordering::Relaxed), 0);
    }
}
