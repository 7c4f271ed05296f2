//! Asks Postgres who may read and write private channels: few connections, many checks a round trip, a time limit for
//! each check as a whole (`database.md 3`; decision 12 says why it is built like this).

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::check::{Answer, CallError, Check, Outcome, To, make};
use crate::lane::{Awaited, Lane, Pulse, Stage, Ticket};
use crate::rights::{Asked, Extensions, ReadRights, WriteRights};
use crate::rights_error::RightsError;

/// Where functions in policies look for what they name without a schema: as the reference has it
/// (`database.md 1.1`), whatever the role we connect as.
const SEARCH_PATH: &str = "public, extensions, realtime";

/// How many connections, how much patience.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections that make many checks a round trip.
    pub connections: u32,
    /// Further connections for checks that took longer than `brief_ms`, one at a time each, so that slow policies do
    /// not hold up the others.
    pub patient_connections: u32,
    /// Milliseconds a check may take in all, waiting included.
    pub timeout_ms: u64,
    /// Milliseconds a call of many checks may take before what it is at is cancelled, and asked again alone.
    pub brief_ms: u64,
    /// How many may wait for an answer at once; further ones are turned away.
    pub askers_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 2,
            patient_connections: 1,
            timeout_ms: 5_000,
            brief_ms: 200,
            askers_max: 10_000,
        }
    }
}

/// Says who may do what with private channels. Clones share connections and queue, which end with the last of them.
///
/// Answers are never kept: each check sees the policies, grants and rows there are when it is made. Checks that are
/// equal and wait at the same time are made once.
#[derive(Clone)]
pub struct Authorizer {
    desk: Arc<Desk>,
}

impl Authorizer {
    /// Connects when first asked. Must be called within a tokio runtime.
    ///
    /// The role in `connect` must be the owner of `realtime.messages`, a superuser, or one with BYPASSRLS that may
    /// insert there, and a member of the roles that tokens name.
    #[must_use]
    pub fn new(connect: &PgConnectOptions, options: Options) -> Self {
        let brief = Arc::new(Lane::of_batches(options.connections));
        let patient = Arc::new(Lane::of_singles(options.patient_connections));
        let pulse = Arc::new(Pulse::new());
        let brief_ms = options.brief_ms.clamp(1, options.timeout_ms.max(1));
        // Postgres is to give up before the asker does, so that the reason is known.
        let patient_ms = options.timeout_ms.saturating_sub(2 * brief_ms).max(brief_ms);
        for (count, lane, next, statement_ms) in [
            (options.connections, &brief, Some(&patient), brief_ms),
            (options.patient_connections, &patient, None, patient_ms),
        ] {
            for _ in 0..count.max(1) {
                let worker = Worker {
                    lane: Arc::clone(lane),
                    next: next.map(Arc::clone),
                    connect: settings(connect.clone(), statement_ms),
                    connection: None,
                    call_limit: Duration::from_millis(options.timeout_ms.max(1)),
                    pulse: Arc::clone(&pulse),
                };
                tokio::spawn(worker.run());
            }
        }
        let askers = Semaphore::new(options.askers_max.min(Semaphore::MAX_PERMITS));
        Self {
            desk: Arc::new(Desk {
                brief,
                patient,
                pulse,
                askers,
                timeout_ms: options.timeout_ms,
            }),
        }
    }

    /// What may be received: at a join, and after a new token (`database.md 3.2`). What is denied is not an error:
    /// [`ReadRights::required`] makes one of it.
    ///
    /// # Errors
    /// [`RightsError`] when the check has no answer. Nobody has a right then.
    pub async fn read(&self, asked: &Asked, extensions: Extensions) -> Result<ReadRights, RightsError> {
        let check = Check {
            asked: asked.clone(),
            to: To::Read(extensions),
        };
        let verdict = self.desk.ask(check).await?;
        Ok(ReadRights {
            broadcast: verdict.broadcast,
            presence: verdict.presence,
        })
    }

    /// What may be sent: before the first broadcast or `track` of a channel, and for each topic of an HTTP request
    /// (`database.md 3.3`). What is denied is not an error: [`WriteRights::broadcast_required`] makes one of it.
    ///
    /// # Errors
    /// [`RightsError`] when the check has no answer. Nobody has a right then.
    pub async fn write(&self, asked: &Asked) -> Result<WriteRights, RightsError> {
        let check = Check {
            asked: asked.clone(),
            to: To::Write,
        };
        let verdict = self.desk.ask(check).await?;
        Ok(WriteRights {
            broadcast: verdict.broadcast == Some(true),
            presence: verdict.presence == Some(true),
            refusal: verdict.refusal,
        })
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authorizer").finish_non_exhaustive()
    }
}

/// The askers' side.
struct Desk {
    brief: Arc<Lane>,
    patient: Arc<Lane>,
    pulse: Arc<Pulse>,
    askers: Semaphore,
    timeout_ms: u64,
}

impl Desk {
    async fn ask(&self, check: Check) -> Answer {
        let answer = self.seek(check).await;
        match &answer {
            Ok(_) => counter!("walcast_rights_checks_total", "code" => "ok").increment(1),
            Err(error) => {
                counter!("walcast_rights_checks_total", "code" => error.code().as_str()).increment(1);
            }
        }
        answer
    }

    async fn seek(&self, check: Check) -> Answer {
        check.representable()?;
        let Ok(_seat) = self.askers.try_acquire() else {
            return Err(RightsError::Exhausted {
                waited_ms: 0,
                remedy: "too many checks wait already; allow more connections, or make the policies faster",
            });
        };
        let asked_at_ms = self.pulse.now_ms();
        let mut awaited = self.brief.ask(check);
        match timeout(Duration::from_millis(self.timeout_ms), &mut awaited.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RightsError::Unavailable("the server is shutting down".into())),
            Err(_) => Err(self.out_of_patience(&awaited, asked_at_ms)),
        }
    }

    fn out_of_patience(&self, awaited: &Awaited, asked_at_ms: u64) -> RightsError {
        let waited_ms = self.timeout_ms;
        let silent = || RightsError::Unavailable(format!("no answer within {waited_ms} ms").into());
        match awaited.stage() {
            Stage::Waiting if self.pulse.has_beaten_since(asked_at_ms) => RightsError::Exhausted {
                waited_ms,
                remedy: "allow more connections, or make the policies faster",
            },
            Stage::Waiting | Stage::Asked => silent(),
            Stage::WaitingAgain => RightsError::Exhausted {
                waited_ms,
                remedy: "all connections for slow checks are busy; make the policies faster",
            },
            Stage::AskedAgain => {
                RightsError::Cancelled(format!("the policies took longer than {waited_ms} ms").into())
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.brief.close();
        self.patient.close();
    }
}

/// Settings of a session that makes checks. What is in it must not depend on the role we connect as.
fn settings(connect: PgConnectOptions, statement_ms: u64) -> PgConnectOptions {
    connect
        .application_name("walcast_rights")
        .disable_statement_logging()
        .options([
            ("statement_timeout", statement_ms.to_string()),
            ("search_path", SEARCH_PATH.to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("default_transaction_read_only", "off".to_owned()),
            ("row_security", "on".to_owned()),
            // Whatever a check writes is rolled back: there is nothing to wait for at the end of a call.
            ("synchronous_commit", "off".to_owned()),
        ])
}

/// The side of one connection.
struct Worker {
    lane: Arc<Lane>,
    /// Where checks go on that need more patience. `None`: this is the last.
    next: Option<Arc<Lane>>,
    connect: PgConnectOptions,
    connection: Option<PgConnection>,
    call_limit: Duration,
    pulse: Arc<Pulse>,
}

impl Worker {
    async fn run(mut self) {
        while let Some(tickets) = self.lane.take().await {
            let answered = self.call(&tickets).await;
            self.settle(tickets, answered);
        }
    }

    /// Makes the checks. A connection that turns out to be gone since it was last used is replaced once.
    async fn call(&mut self, tickets: &[Ticket]) -> Result<Vec<Outcome>, CallError> {
        let asked = if self.next.is_some() {
            Stage::Asked
        } else {
            Stage::AskedAgain
        };
        for ticket in tickets {
            ticket.set_stage(asked);
        }
        let checks: Vec<&Check> = tickets.iter().map(|ticket| ticket.check.as_ref()).collect();
        loop {
            let (mut connection, used) = match self.connection.take() {
                Some(connection) => (connection, true),
                None => (self.open().await?, false),
            };
            counter!("walcast_rights_calls_total").increment(1);
            let Ok(answered) = timeout(self.call_limit, make(&mut connection, &checks)).await else {
                return Err(CallError::Lost(
                    format!("no answer within {} ms", self.call_limit.as_millis()).into(),
                ));
            };
            match answered {
                Err(CallError::Lost(_)) if used => {}
                Err(CallError::Lost(reason)) => return Err(CallError::Lost(reason)),
                answered => {
                    self.pulse.beat();
                    self.connection = Some(connection);
                    return answered;
                }
            }
        }
    }

    async fn open(&self) -> Result<PgConnection, CallError> {
        match timeout(self.call_limit, PgConnection::connect_with(&self.connect)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(CallError::Unreachable(error.to_string().into())),
            Err(_) => Err(CallError::Unreachable(
                format!("no connection within {} ms", self.call_limit.as_millis()).into(),
            )),
        }
    }

    fn settle(&self, tickets: Vec<Ticket>, answered: Result<Vec<Outcome>, CallError>) {
        let outcomes = match answered {
            Ok(outcomes) => outcomes,
            Err(CallError::Unreachable(reason)) => {
                return answer_all(tickets, &Err(RightsError::Unavailable(reason)));
            }
            Err(failure) => match &self.next {
                // One of them spoiled it for all; alone, each has its own outcome.
                Some(next) if tickets.len() > 1 => {
                    tracing::warn!(
                        checks = tickets.len(),
                        "a call failed as a whole, each check is made alone: {failure}"
                    );
                    return tickets.into_iter().for_each(|ticket| next.push(ticket));
                }
                _ => match failure {
                    CallError::Refused(refusal) => tickets
                        .iter()
                        .map(|ticket| refusal.to_outcome(&ticket.check.asked))
                        .collect(),
                    CallError::Lost(reason) | CallError::Unreachable(reason) => {
                        return answer_all(tickets, &Err(RightsError::Unavailable(reason)));
                    }
                },
            },
        };
        if outcomes.iter().all(|outcome| *outcome == Outcome::NotMade) {
            let reason = "walcast.channel_rights made no check: is it ours?";
            return answer_all(tickets, &Err(RightsError::Unavailable(reason.into())));
        }
        let mut rest = Vec::new();
        for (ticket, outcome) in tickets.into_iter().zip(outcomes) {
            match (outcome, &self.next) {
                (Outcome::Answered(answer), _) => ticket.answer(&answer),
                (Outcome::NotMade, _) => rest.push(ticket),
                (Outcome::Cancelled(_), Some(next)) => next.push(ticket),
                (Outcome::Cancelled(reason), None) => ticket.answer(&Err(RightsError::Cancelled(reason))),
            }
        }
        self.lane.put_back(rest);
    }
}

fn answer_all(tickets: Vec<Ticket>, answer: &Answer) {
    for ticket in tickets {
        ticket.answer(answer);
    }
}
