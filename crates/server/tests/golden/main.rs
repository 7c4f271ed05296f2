//! Replays the wire transcripts of the reference server in `tests/golden` against Walcast, one test for each case.
//!
//! A case is equal, or listed in `differences` with the reason why it is not. Nothing else passes: not a new
//! difference, and not one that is listed and gone. `cargo test -p walcast --test golden -- NAME` plays some.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy sees tests, not what they call"
)]

mod agree;
mod checks;
mod client;
mod compare;
mod differences;
mod http;
mod json;
mod records;
mod replay;
mod scene;
mod stand_ins;
mod tenant;
mod transcript;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::compare::compare;
use crate::differences::{Difference, Kind};
use crate::records::Records;
use crate::replay::{Replayed, replay};
use crate::scene::{PATIENCE, Scene, Walcast};
use crate::stand_ins::StandIns;
use crate::transcript::{Case, Index};

/// Most cases wait most of their time.
const AT_ONCE: usize = 24;

/// What is not there is not waited for long.
const IMPATIENCE: Duration = Duration::from_millis(400);

/// Longer than a token of a timed case lives, and than a rate is averaged.
const TIMED_IMPATIENCE: Duration = Duration::from_secs(6);

struct Stage {
    index: Index,
    scene: OnceCell<Scene>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let runtime = Arc::new(Runtime::new().unwrap());
    let stage = Arc::new(Stage {
        index: Index::read(),
        scene: OnceCell::new(),
    });
    let mut trials = vec![
        Trial::test("harness_the_list_names_cases", {
            let stage = Arc::clone(&stage);
            move || checks::the_list_names_cases(&stage.index)
        }),
        Trial::test("harness_texts_agree_or_not", checks::texts_agree_or_not),
        Trial::test("harness_binaries_agree_or_not", checks::binaries_agree_or_not),
        Trial::test(
            "harness_frames_are_compared_in_order",
            checks::frames_are_compared_in_order,
        ),
    ];
    trials.extend(stage.index.cases.iter().map(|listed| {
        let name = listed.case.clone();
        let kind = differences::of(&name)
            .iter()
            .map(|difference| difference.kind)
            .max()
            .map_or("equal", Kind::name);
        let (stage, runtime) = (Arc::clone(&stage), Arc::clone(&runtime));
        Trial::test(name.clone(), move || {
            runtime.block_on(Box::pin(stage.play(&name)))
        })
        .with_kind(kind)
    }));
    let is_full_run = arguments.filter.is_none() && !arguments.list;
    let conclusion = libtest_mimic::run(&arguments, trials);
    if is_full_run {
        stage.tell_differences();
    }
    let stage = Arc::into_inner(stage);
    if let Some(scene) = stage.and_then(|stage| stage.scene.into_inner()) {
        runtime.block_on(Box::pin(scene.clear()));
    }
    conclusion.exit_code()
}

impl Stage {
    fn stand_ins(&self) -> StandIns {
        StandIns::new(&self.index.tokens)
    }

    async fn play(&self, name: &str) -> Result<(), Failed> {
        let differences = differences::of(name);
        let scene = self
            .scene
            .get_or_init(|| Box::pin(async { Scene::set(&self.stand_ins()).await }))
            .await;
        // Made here, not earlier: a token's time runs from now on.
        let recorded = Case::read(name, &self.stand_ins());
        let sure: Vec<&Difference> = differences
            .iter()
            .copied()
            .filter(|difference| difference.kind != Kind::EitherWay)
            .collect();
        let expected = with(&recorded, &sure)?;
        let is_unspecified = differences.iter().any(|difference| difference.instead.is_empty());
        let patience = match (is_unspecified, recorded.is_timed) {
            (false, _) => PATIENCE,
            (true, false) => IMPATIENCE,
            (true, true) => TIMED_IMPATIENCE,
        };
        let replayed = Box::pin(self.replay(&expected, scene, patience)).await;
        judge(&recorded, &differences, &replayed).map_err(|failed| {
            let about = &recorded.about;
            Failed::from(format!("{about}\n  {failed}"))
        })
    }

    async fn replay(&self, case: &Case, scene: &Scene, patience: Duration) -> Replayed {
        if records::are_needed(&case.name) {
            let records = Box::pin(Records::set(case, &self.stand_ins())).await;
            let fitted = records.fit(case);
            let replayed = replay(&fitted, scene, records.server.address, None, patience).await;
            records.server.stop().await;
            return replayed;
        }
        if let Some(settings) = &case.tenant {
            let server = Walcast::start(&scene.database, settings).await;
            let replayed = replay(case, scene, server.address, None, patience).await;
            server.stop().await;
            return replayed;
        }
        let address = scene.server.address;
        if !case.needs_the_tables() {
            return replay(case, scene, address, None, patience).await;
        }
        let mut witness = scene.tables().await;
        let replayed = replay(case, scene, address, Some(&mut witness), patience).await;
        if case.alters_tables() {
            scene.restore().await;
        }
        replayed
    }

    fn tell_differences(&self) {
        let mut reasons: BTreeMap<(Kind, &str), Vec<&str>> = BTreeMap::new();
        for difference in differences::all() {
            reasons
                .entry((difference.kind, difference.reason))
                .or_default()
                .extend(difference.cases);
        }
        println!("Of {} cases, these differ:", self.index.cases.len());
        for ((kind, reason), cases) in reasons {
            println!("  {}: {reason}\n    {}", kind.name(), cases.join(" "));
        }
    }
}

/// The case with all of these differences.
fn with(recorded: &Case, differences: &[&Difference]) -> Result<Case, String> {
    let mut case = recorded.clone();
    for difference in differences {
        difference.apply(&mut case)?;
    }
    Ok(case)
}

fn judge(recorded: &Case, differences: &[&Difference], replayed: &Replayed) -> Result<(), String> {
    let found = compare(&with(recorded, differences)?, replayed);
    let unspecified = differences
        .iter()
        .find(|difference| difference.instead.is_empty());
    match unspecified {
        Some(difference) if found.is_empty() => return Err(gone(difference)),
        Some(_) => return Ok(()),
        None => {}
    }
    // Each of them has to make a difference.
    let mut could_be_without = None;
    for difference in differences {
        let others: Vec<&Difference> = differences
            .iter()
            .copied()
            .filter(|other| !std::ptr::eq(*other, *difference))
            .collect();
        let is_equal = with(recorded, &others).is_ok_and(|case| compare(&case, replayed).is_empty());
        match difference.kind {
            Kind::EitherWay if is_equal => could_be_without = Some(()),
            Kind::Deliberate | Kind::NotYet if is_equal => return Err(gone(difference)),
            _ => {}
        }
    }
    if found.is_empty() || could_be_without.is_some() {
        Ok(())
    } else {
        Err(found.join("\n  "))
    }
}

fn gone(difference: &Difference) -> String {
    format!("no longer different, take it off the list: {}", difference.reason)
}
