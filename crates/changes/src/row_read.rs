//! The columns of one change as conditions look at them, each read once however many listeners ask.

use crate::clause::Clause;
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

    /// Whether all clauses hold. `ask` is asked about conditions that are not decided here, with the column's text. One
    /// on a column that the change does not carry is as NULL, negated or not.
    pub(crate) fn evaluate(
        &mut self,
        clauses: &'names [Clause<TypedCondition>],
        ask: impl Fn(&TypedCondition, &str) -> Answer,
    ) -> Truth {
        let mut answer = |condition: &'names TypedCondition| {
            let column = self.read(&condition.condition.column, condition.family);
            match column {
                None => Answer::Null,
                Some((text, reading)) => match (condition.evaluate_read(*text, reading), text) {
                    (Answer::Ask, Some(text)) => ask(condition, text),
                    (answer, _) => answer,
                },
            }
        };
        let mut truth = Truth::Holds;
        for clause in clauses {
            match clause.evaluate(&mut answer) {
                Answer::True => {}
                Answer::False | Answer::Null => return Truth::Fails,
                Answer::Ask => truth = Truth::Ask,
            }
        }
        truth
    }
}
