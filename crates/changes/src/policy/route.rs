//! How identities are found by a row. Where a condition can only hold if something in the row equals something in
//! the claims, as in `owner = auth.uid()`, the identities concerned are looked up by that value instead of each being
//! tried.
//!
//! A route never finds too few: whoever is not found is one for whom the condition is certainly not true.

use super::compile::Expression;
use super::evaluate::{Nothing, Row, Run};
use super::parse::{Comparison, Test};
use super::value::{ClaimsView, Trouble, Value};

/// More ways than this into one condition are no shorter than trying everybody.
const MAX_ROUTES: usize = 8;

/// A value that identities are found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Bool(bool),
    Int(i64),
    Uuid(u128),
    Text(Box<str>),
}

impl Key {
    /// Values compare as conditions compare them. `None`: a value that is not looked into.
    fn of(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Bool(flag) => Some(Self::Bool(flag)),
            Value::Int(number) => Some(Self::Int(number)),
            Value::Uuid(uuid) => Some(Self::Uuid(uuid)),
            Value::Text(text) => Some(Self::Text(text.into())),
            Value::Null | Value::Json(_) | Value::Opaque => None,
        }
    }
}

/// One way a condition can come true.
#[derive(Clone, Debug, PartialEq)]
enum Route {
    /// What the row says equals what the claims say.
    Equal { row: Expression, claims: Expression },
    /// The claims alone allow it, whatever the row says.
    Claims(Expression),
}

/// All the ways a condition can come true: at least one of them does whenever it does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Routes(Vec<Route>);

/// Which rows an identity may see at most.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Any,
    /// Those that say one of these on the route of that number.
    Keys(Vec<(usize, Key)>),
}

/// Whom a row concerns at most, on one route.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sought {
    Nobody,
    Key(Key),
    /// The row does not tell.
    Anybody,
}

impl Routes {
    /// No way at all: nobody sees anything.
    pub(crate) const NONE: Self = Self(Vec::new());

    /// The shortest ways into `condition`; `None` where everybody has to be tried.
    pub(super) fn of(condition: &Expression) -> Option<Self> {
        ways(condition).map(Self)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Which rows an identity with these claims may see at most.
    pub(crate) fn reach(&self, claims: &ClaimsView) -> Reach {
        let run = Run {
            row: &Nothing,
            claims,
        };
        let mut keys = Vec::with_capacity(self.0.len());
        for (number, route) in self.0.iter().enumerate() {
            match route {
                Route::Claims(condition) if run.truth(condition).may_hold() => return Reach::Any,
                Route::Claims(_) => {}
                Route::Equal { claims, .. } => match key(run.value(claims)) {
                    Sought::Nobody => {}
                    Sought::Key(key) => keys.push((number, key)),
                    Sought::Anybody => return Reach::Any,
                },
            }
        }
        Reach::Keys(keys)
    }

    /// Whom a row concerns at most, by route.
    pub(crate) fn sought<'a>(&'a self, row: &'a dyn Row) -> impl Iterator<Item = Sought> + 'a {
        self.0.iter().map(move |route| match route {
            Route::Claims(_) => Sought::Nobody,
            Route::Equal { row: expression, .. } => {
                let run = Run {
                    row,
                    claims: &ClaimsView::NONE,
                };
                key(run.value(expression))
            }
        })
    }
}

/// The key of one side of an equality. One that is NULL is never true; nor is one that raises, but whom it raises for is
/// to be found, and told.
fn key(value: Result<Value<'_>, Trouble>) -> Sought {
    match value {
        Ok(Value::Null) => Sought::Nobody,
        Ok(value) => Key::of(value).map_or(Sought::Anybody, Sought::Key),
        Err(Trouble::Raises | Trouble::Unsure) => Sought::Anybody,
    }
}

fn ways(condition: &Expression) -> Option<Vec<Route>> {
    let reads = condition.reads();
    if !reads.row {
        // What no claim changes is as true for everybody.
        return if reads.claims {
            Some(vec![Route::Claims(condition.clone())])
        } else {
            let run = Run {
                row: &Nothing,
                claims: &ClaimsView::NONE,
            };
            (!run.truth(condition).may_hold()).then(Vec::new)
        };
    }
    match condition {
        Expression::And(operands) => operands.iter().filter_map(ways).min_by_key(|ways| length(ways)),
        Expression::Or(operands) => {
            let all = operands.iter().map(ways).collect::<Option<Vec<_>>>()?.concat();
            (all.len() <= MAX_ROUTES).then_some(all)
        }
        Expression::Is(operand, Test::True, false) => ways(operand),
        Expression::Compare(Comparison::Equal, left, right) => Some(vec![equal(left, right)?]),
        Expression::AnyOf(operand, members, false) if members.len() <= MAX_ROUTES => {
            members.iter().map(|member| equal(operand, member)).collect()
        }
        _ => None,
    }
}

/// One side must read the row alone, the other no column.
fn equal(left: &Expression, right: &Expression) -> Option<Route> {
    let (row, claims) = match (left.reads(), right.reads()) {
        (reads, other) if reads.row && !reads.claims && !other.row => (left, right),
        (other, reads) if reads.row && !reads.claims && !other.row => (right, left),
        _ => return None,
    };
    Some(Route::Equal {
        row: row.clone(),
        claims: claims.clone(),
    })
}

/// Orders ways by how few identities they will find: by a claim's value, by a constant that all share, all that a
/// claim allows.
fn length(ways: &[Route]) -> usize {
    ways.iter()
        .map(|route| match route {
            Route::Equal { claims, .. } if claims.reads().claims => 1,
            Route::Equal { .. } => 100,
            Route::Claims(_) => 10_000,
        })
        .sum()
}
