//! Waiting for what tells no event.

use std::time::Duration;

use tokio::time::{interval, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// Short beside what is waited for, long beside what it takes to ask.
const ASK_INTERVAL: Duration = Duration::from_millis(10);

/// Asks again and again until the answer is there.
///
/// # Panics
/// There is none within 20 seconds; the panic names `what` was waited for.
pub async fn until<T, Asked: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> Asked) -> T {
    let answer = async {
        let mut tick = interval(ASK_INTERVAL);
        loop {
            tick.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}
