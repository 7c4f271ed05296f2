//! Delivery with an audience of one: the row goes through the worker that decides about every change, and what that
//! hands out is looked at.

use crate::binding::Binding;
use crate::claims::Claims;
use crate::clause::Clause;
use crate::condition::TypedCondition;
use crate::engine::Context;
use crate::index::Listener;
use crate::lane::Lane;
use crate::subscription::{Request, Subscriber};
use crate::table::{self, Item, Worker};
use crate::visibility::VisibilityError;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use walcast_protocol::{Frame, Outlet, Ref, Version};
use walcast_replication::Change;

/// What a channel would have been handed.
#[derive(Default)]
pub(super) struct Heard(Mutex<Vec<Value>>);

impl Outlet for Heard {
    fn deliver(&self, frame: Frame) {
        if let Ok(message) = serde_json::from_slice(frame.bytes()) {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(message);
        }
    }
}

impl Heard {
    /// Whether a change is among it that shows the row, be it cut to size.
    fn has_row(&self) -> bool {
        let messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        messages.iter().any(|message| {
            let errors = message.pointer("/4/data/errors");
            let is_refusal = errors
                .and_then(|errors| errors.get(0))
                .and_then(Value::as_str)
                .is_some_and(|error| error != crate::render::TOO_LARGE);
            errors.is_some() && !is_refusal
        })
    }
}

/// Whether a channel with one binding would be shown the change.
pub(super) async fn shows(
    context: &Arc<Context>,
    binding: &Binding,
    clauses: Vec<Clause<TypedCondition>>,
    claims: &Arc<Claims>,
    change: Change,
) -> Result<bool, VisibilityError> {
    let heard = Arc::new(Heard::default());
    let outlet: Arc<dyn Outlet> = Arc::<Heard>::clone(&heard);
    let request = Request {
        version: Version::V2,
        topic: Arc::from("realtime:explain"),
        join_ref: Ref::from_text("1"),
        legacy: false,
        entries: Vec::new(),
        claims: Arc::clone(claims),
        outlet,
    };
    let subscriber = Arc::new(Subscriber::new(
        context.registry.next_id(),
        &request,
        vec![(0, binding.clone())],
        context.intern(claims),
    ));
    subscriber.admit(0);
    let lane = Arc::new(Lane::default());
    let listener = Listener::new(&subscriber, 0, clauses, context.options.digits, Arc::clone(&lane));
    let table = table::apart(listener.into_iter(), &lane);
    let item = Item {
        number: 0,
        change,
        is_superseded: false,
        tickets: table.open_slots(),
        _share: None,
    };
    Worker::of_past(context, &table).tell(vec![item]).await?;
    Ok(heard.has_row())
}
