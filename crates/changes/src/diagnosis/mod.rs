//! Why changes of a table do not reach a role, or not all of them (`design.md 3`, promise 7).
//!
//! A [`Finding`] is one such reason: a code, a sentence for people, and the SQL that mends it. They come from two
//! readings of the catalog: [`Exposure`] says what a published table shows to a role, [`unpublished()`] why a name is not
//! offered at all. The confirmation of a subscription carries those that concern it, `walcast doctor` all there are.
//!
//! Nothing here decides what is delivered; a table that is found faultless is not thereby visible.

mod exposure;
mod finding;
mod old_rows;
mod sql_name;
mod unpublished;

pub use exposure::{Exposure, Wish, exposures};
pub use finding::{Finding, Severity, TableName};
pub use old_rows::{Doubt, hidden_deletes};
pub use sql_name::{identifier, literal};
pub use unpublished::unpublished;
