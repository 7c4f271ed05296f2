//! Row level security decided in this process, where that is certainly what Postgres would decide (`design.md 4.4`).
//!
//! Asking Postgres costs it some ten microseconds for every identity and row. Nearly all policies compare a column
//! with something in the claims, and that can be done here, on the row as it was committed. Whatever is not fully
//! understood is left to Postgres: [`Access::Ask`] for a policy, [`Verdict::Ask`] for a row.
//!
//! **Where the expressions come from.** Postgres stores a policy as a parsed tree. We read it back as text, printed
//! by `pg_get_expr` under an empty `search_path`. Printed so, every function and operator outside `pg_catalog` carries its
//! schema (`auth.uid()`, `OPERATOR(x.=)`), one of `pg_catalog` carries none, casts are spelled out and operators are
//! parenthesised: a name means one object, whatever the search path of whoever wrote the policy, and a schema called
//! `pg_catalog` cannot be shadowed. Temporary schemas never supply functions or operators.
//!
//! **Helpers** such as `auth.uid()` are not trusted by name. A function without arguments is accepted if it is plain
//! SQL, not SECURITY DEFINER, without settings of its own, executable by the role, and if its body is an expression
//! this compiler understands. Names in a body are looked up when it runs, so a body is accepted only while nothing
//! in this database could shadow the few names we know.
//!
//! **What the row is**: the version in the change. Postgres, asked later, judges the row as it is then; so a row
//! that was visible when it was committed and is gone by now is shown by us, and one that became visible later is
//! not. Never is a version shown that the policy hides.

mod compile;
mod evaluate;
mod facts;
mod parse;
mod route;
mod single;
mod token;
mod value;

pub use compile::{Access, Program, compile};
pub use evaluate::{Row, Verdict};
pub use facts::{PolicyFacts, load, load_on};
pub(crate) use route::{Key, Reach, Routes, Sought};
pub(crate) use single::{Outcome, Single, singles};
pub use value::ClaimsView;

/// Reads a text in every way a policy's parts are read; for the fuzz target.
pub(crate) fn read_any(text: &str) {
    let _ = parse::expression(text);
    let _ = parse::function_body(text);
}
