//! A table as its task sees it: the catalog's facts put together with the relation the stream announced, and what
//! each role may see of it.

use crate::catalog::{self, TableFacts};
use crate::condition::TypedCondition;
use crate::engine::{Context, DeleteVisibility};
use crate::generated::Completion;
use crate::policy::{self, Access, ClaimsView, Routes, Row, Verdict};
use crate::render::{Face, Shape};
use crate::rights::RightsVersion;
use crate::visibility::{self, Visibility};
use std::collections::HashMap;
use std::sync::Arc;
use walcast_replication::Relation;
use walcast_replication::json::Digits;

/// What of a row a binding wants, and how: its selection and its form of numbers.
type Wanted = (Option<Arc<[String]>>, Digits);

/// What a role may see.
pub(crate) struct RoleView {
    /// By position in the relation.
    selectable: Vec<bool>,
    /// Every primary key column is selectable (`protocol.md 7.5`).
    pub(crate) sees_key: bool,
    pub(crate) access: Access,
    /// How those who may see a row are found; `None`: each is tried.
    pub(crate) routes: Option<Arc<Routes>>,
    shapes: Vec<(Wanted, usize)>,
    rights: RightsVersion,
}

impl RoleView {
    /// Whether rows are judged in this process for the role, at least for comparison.
    pub(crate) fn is_judged_here(&self, mode: Visibility) -> bool {
        matches!(self.access, Access::Compiled(_)) && mode != Visibility::Sql
    }

    /// Whether the role is shown a row with these claims, as far as that can be told here.
    pub(crate) fn verdict(&self, mode: Visibility, row: &dyn Row, claims: &ClaimsView) -> Verdict {
        match &self.access {
            Access::NoRls => Verdict::Visible,
            _ if mode == Visibility::Sql => Verdict::Ask,
            Access::Compiled(program) => program.evaluate(row, claims),
            Access::Ask { .. } => Verdict::Ask,
            Access::Hidden => Verdict::Hidden,
        }
    }
}

/// Facts about one version of a relation.
pub(crate) struct View {
    /// With the generated columns that the stream leaves out.
    pub(crate) relation: Arc<Relation>,
    /// How changes get those; `None` if there are none.
    pub(crate) completion: Option<Completion>,
    pub(crate) facts: TableFacts,
    pub(crate) face: Face,
    /// Position of each primary key column in the relation; a missing one was dropped or renamed since.
    pub(crate) key_at: Vec<Option<usize>>,
    /// How rows are looked up under row level security; `None` without.
    pub(crate) probe: Option<Arc<str>>,
    positions: HashMap<String, usize>,
    roles: HashMap<String, RoleView>,
    shapes: Vec<Shape>,
    rights: RightsVersion,
}

impl View {
    /// Reads the catalog for `relation`, after `rights` were; `None` when the table is gone.
    pub(crate) async fn load(
        context: &Context,
        relation: &Arc<Relation>,
        rights: &RightsVersion,
    ) -> Result<Option<Self>, sqlx::Error> {
        let Some(facts) = catalog::facts(&context.pool, &[relation.oid]).await?.pop() else {
            return Ok(None);
        };
        let publication = &context.options.publication;
        let completion = Completion::load(&context.pool, publication, relation, &facts).await?;
        let relation = completion
            .as_ref()
            .map_or(relation, |completion| &completion.relation);
        let oids: Vec<u32> = relation.columns.iter().map(|column| column.type_oid).collect();
        let kinds = catalog::kinds(&context.pool, &oids).await?;
        let key_names: Vec<&str> = facts
            .primary_key
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let positions: HashMap<String, usize> = relation
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| (column.name.clone(), at))
            .collect();
        let key_at = key_names
            .iter()
            .map(|name| positions.get(*name).copied())
            .collect();
        // Whoever is told of a deleted row only if it could see it is told all of it.
        let shows_key_only =
            facts.row_security.is_some() && context.options.delete_visibility == DeleteVisibility::All;
        let face = Face::new(relation, kinds, &key_names, shows_key_only);
        let probe = facts
            .row_security
            .as_ref()
            .map(|source| visibility::probe(facts.oid, source, &facts.primary_key).into());
        Ok(Some(Self {
            relation: Arc::clone(relation),
            completion,
            facts,
            face,
            key_at,
            probe,
            positions,
            roles: HashMap::new(),
            shapes: Vec::new(),
            rights: Arc::clone(rights),
        }))
    }

    /// Whether something changed, or may have, that the relation's version does not tell.
    pub(crate) fn is_stale(&self, rights: &RightsVersion) -> bool {
        // Postgres announces nothing for a partition when its ancestor's row security changes.
        self.face.is_stale() || (self.facts.is_partition && self.rights != *rights)
    }

    pub(crate) fn position(&self, column: &str) -> Option<usize> {
        self.positions.get(column).copied()
    }

    /// Whether a condition was made for another type than its column has.
    pub(crate) fn has_another_type(&self, condition: &TypedCondition) -> bool {
        self.facts
            .attribute(&condition.condition.column)
            .is_some_and(|attribute| attribute.cast_type != condition.cast_type)
    }

    pub(crate) fn role(&self, role: &str) -> Option<&RoleView> {
        self.roles.get(role)
    }

    /// The roles that are known, with what they may see.
    pub(crate) fn roles(&self) -> impl Iterator<Item = (&str, &RoleView)> {
        self.roles.iter().map(|(role, view)| (role.as_str(), view))
    }

    /// Makes sure that what we know of `role` was read when rights were these, or later.
    pub(crate) async fn refresh_role(
        &mut self,
        context: &Context,
        role: &str,
        rights: &RightsVersion,
    ) -> Result<(), sqlx::Error> {
        if self.roles.get(role).is_some_and(|known| known.rights == *rights) {
            return Ok(());
        }
        let selectable = catalog::selectable(&context.pool, self.relation.oid, role).await?;
        let access = match &self.facts.row_security {
            None => Access::NoRls,
            Some(source) => policy::compile(&policy::load(&context.pool, source.oid, role).await?),
        };
        // Whom the index leaves out Postgres is not asked about.
        let routes = access
            .routes()
            .filter(|_| context.options.visibility == Visibility::Compiled);
        let view = RoleView {
            selectable: self
                .relation
                .columns
                .iter()
                .map(|column| selectable.contains(&column.name))
                .collect(),
            sees_key: self
                .facts
                .primary_key
                .iter()
                .all(|column| selectable.contains(&column.name)),
            access,
            routes,
            shapes: Vec::new(),
            rights: Arc::clone(rights),
        };
        self.roles.insert(role.to_owned(), view);
        Ok(())
    }

    /// The number of the shape a role with this selection sees; equal shapes of different roles share a number.
    pub(crate) fn shape_number(
        &mut self,
        role: &str,
        select: Option<&Arc<[String]>>,
        digits: Digits,
    ) -> Option<usize> {
        let view = self.roles.get(role)?;
        if let Some((_, number)) = view
            .shapes
            .iter()
            .find(|((known, form), _)| known.as_ref() == select && *form == digits)
        {
            return Some(*number);
        }
        let shown: Vec<bool> = self
            .relation
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                view.selectable.get(at) == Some(&true)
                    && select.is_none_or(|names| {
                        names.contains(&column.name)
                            || self.face.columns.get(at).is_some_and(|shown| shown.is_primary)
                    })
            })
            .collect();
        let number = self
            .shapes
            .iter()
            .position(|shape| shape.is_of(&shown, digits))
            .unwrap_or_else(|| {
                self.shapes.push(self.face.shape(shown, digits));
                self.shapes.len() - 1
            });
        if let Some(view) = self.roles.get_mut(role) {
            view.shapes.push(((select.cloned(), digits), number));
        }
        Some(number)
    }

    pub(crate) fn shape(&self, number: usize) -> Option<&Shape> {
        self.shapes.get(number)
    }
}
