//! The columns of one change as conditions look at them, each read once however many listeners ask.

use crate::condition::{Answer, Truth, TypedCondition};
use crate::scalar::{Family, Reading};

/// A column's text, `None` for NULL, and what its family reads in it.
type Column<'row> = (Option<&'row str>, Reading<'row>);

/// The columns of a change that have been asked for.
pub(crate) struct RowRead<'names, 'row, V> {
    /// A column's text; its outer option says whether the change carries the column at all.
    value: V,
    /// A filter names few columns, and listeners of a table mostly the same ones.
    columns: Vec<(&'names str, Family, Option<Column<'row>>)>,
}

impl<'names, 'row, V: Fn(&str) -> Option<Option<&'row str>>> RowRead<'names, 'row, V> {
    pub(crate) fn new(value: V) -> Self {
        Self {
            value,
            columns: Vec::new(),
        }
    }

    /// A column; `None` when the change does not carry it.
    pub(crate) fn read(&mut self, name: &'names str, family: Family) -> Option<&Column<'row>> {
        let known = self
            .columns
            .iter()
            .position(|(known, of, _)| *of == family && *known == name);
        let at = known.unwrap_or_else(|| {
            let column = (self.value)(name).map(|text| (text, family.read(text)));
            self.columns.push((name, family, column));
            self.columns.len() - 1
        });
        self.columns.get(at)?.2.as_ref()
    }

    /// Whether all conditions hold. `ask` is asked about those that are not decided here, with the column's text.
    pub(crate) fn evaluate(
        &mut self,
        conditions: &'names [TypedCondition],
        ask: impl Fn(&TypedCondition, &str) -> Answer,
    ) -> Truth {
        let mut truth = Truth::Holds;
        for condition in conditions {
            let column = self.read(&condition.condition.column, condition.family);
            let answer = match column {
                None => Answer::Null,
                Some((text, reading)) => match (condition.evaluate_read(*text, reading), text) {
                    (Answer::Ask, Some(text)) => ask(condition, text),
                    (answer, _) => answer,
                },
            };
            match answer {
                Answer::True => {}
                Answer::False | Answer::Null => return Truth::Fails,
                Answer::Ask => truth = Truth::Ask,
            }
        }
        truth
    }
}
