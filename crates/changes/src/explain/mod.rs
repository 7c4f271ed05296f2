//! Would somebody receive a row, and if not, which check says no?
//!
//! The row is read and sent through delivery itself with an audience of one ([`rehearsal`]), so that the answer cannot
//! be another than what is delivered. The checks that delivery makes on the way are then made once more, one by one and
//! with the same functions, so that each can say what it found.
//!
//! It has connections of its own for its questions: no delivery waits for an explanation.

mod filter;
mod judge;
mod policies;
mod rehearsal;
mod report;
mod row_security;
mod subject;

pub use report::{
    Check, CheckName, Decided, ExplainError, Explanation, IdentityShown, Inquiry, PolicyKind, PolicyShown,
    TokenRefused,
};

use crate::binding::Binding;
use crate::engine::{Context, Options};
use judge::Judge;
use sqlx::PgPool;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Explanations made at the same time.
const AT_ONCE: usize = 2;

/// Explains what is delivered and what is not. Cheap to clone.
#[derive(Clone)]
pub struct Explainer {
    context: Arc<Context>,
    turns: Arc<Semaphore>,
}

impl Explainer {
    /// Explains what a server with these options delivers; no stream is read. `pool` is used for the catalog and for
    /// rows.
    #[must_use]
    pub fn new(pool: PgPool, options: &Options) -> Self {
        let options = Options {
            visibility_connections: 1,
            cluster: None,
            tap: None,
            meter: None,
            ..options.clone()
        };
        Self {
            context: Arc::new(Context::new(pool, options)),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Says whether somebody would receive a row if what his subscription hears of first (an UPDATE, where he hears
    /// all) happened to it now, with all its values written; and what each check says.
    ///
    /// # Errors
    /// See [`ExplainError`].
    pub async fn explain(&self, inquiry: &Inquiry) -> Result<Explanation, ExplainError> {
        let _turn = self.turns.try_acquire().map_err(|_| ExplainError::Busy)?;
        let binding = Binding::parse(&inquiry.entry, self.context.options.grammar())?;
        Box::pin(Judge::new(&self.context, inquiry, binding)?.run()).await
    }
}
