//! From a type's oid to how its values become JSON.

use super::built_in::BUILT_IN;
use super::{Field, Type};
use std::collections::HashMap;
use std::sync::Arc;

/// How many levels a type may nest (a domain over an array of a composite of ... counts each). What lies deeper is
/// written as text. Bounds the recursion of [`super::write()`]; far beyond what a schema that people use has.
pub const MAX_LEVELS: usize = 32;

/// Reads, for the type oids `$1` (an array of oid), their rows and those of all types they are made of: a domain's base
/// type, an array's element type, a composite's attribute types. One row of the result is one [`TypeRow`], its columns
/// in the order and by the names of the fields.
///
/// Any role may run it. It terminates on whatever the catalog holds, since `union` drops the rows already found.
pub const TYPE_QUERY: &str = r"
with recursive needed (oid) as (
    select unnest($1::oid[])
  union
    select part.oid
      from needed
      join pg_catalog.pg_type as t on t.oid = needed.oid
     cross join lateral (
            select t.typbasetype where t.typtype = 'd'
          union all
            select t.typelem where t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
          union all
            select a.atttypid
              from pg_catalog.pg_attribute as a
             where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
           ) as part (oid)
)
select t.oid as oid,
       t.typname::text as name,
       case when t.typtype = 'd' then t.typbasetype end as base,
       element.oid as element,
       coalesce(element.typdelim, ',')::text as delimiter,
       attributes.names as attribute_names,
       attributes.types as attribute_types,
       (select e.extname::text
          from pg_catalog.pg_depend as d
          join pg_catalog.pg_extension as e on e.oid = d.refobjid
         where d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.oid
           and d.refclassid = 'pg_catalog.pg_extension'::regclass and d.deptype = 'e'
         limit 1) as extension
  from needed
  join pg_catalog.pg_type as t on t.oid = needed.oid
  left join pg_catalog.pg_type as element
    on element.oid = t.typelem and t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
  left join lateral (
        select coalesce(array_agg(a.attname::text order by a.attnum), '{}') as names,
               coalesce(array_agg(a.atttypid order by a.attnum), '{}') as types
          from pg_catalog.pg_attribute as a
         where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
       ) as attributes on t.typtype = 'c'
";

/// A row of [`TYPE_QUERY`]: plain fields, so that any client can fill it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeRow {
    /// `pg_type.oid`.
    pub oid: u32,
    /// `pg_type.typname`.
    pub name: String,
    /// The type that a domain restricts; `None` for other types.
    pub base: Option<u32>,
    /// The type of an array's elements; `None` for other types.
    pub element: Option<u32>,
    /// What stands between two elements of an array: one ASCII character.
    pub delimiter: String,
    /// The attributes of a composite type in their order, without dropped ones; `None` for other types.
    pub attribute_names: Option<Vec<String>>,
    /// The types of `attribute_names`, one for each.
    pub attribute_types: Option<Vec<u32>>,
    /// The extension that the type belongs to.
    pub extension: Option<String>,
}

impl TypeRow {
    fn parts(&self) -> impl Iterator<Item = u32> {
        let attributes = self.attribute_types.iter().flatten().copied();
        self.base.into_iter().chain(self.element).chain(attributes)
    }
}

/// The types that are known so far: Postgres' own from the start, others once their rows were added.
///
/// A type that is altered stays as it was until its row is added again; values that no longer fit are refused by
/// [`super::write()`], which is the sign to ask again.
#[derive(Debug, Clone, Default)]
pub struct TypeCatalog {
    added: HashMap<u32, Known>,
}

/// A type and its `pg_type.typname`.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) name: Arc<str>,
    pub(super) kind: Arc<Type>,
    /// How many types lie on the longest way from this one to one without parts, both counted.
    pub(super) levels: usize,
}

impl TypeCatalog {
    /// A catalog of the built-in types: every base, range and multirange type that initdb gives a fixed oid, and their
    /// arrays.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How values of the type `oid` become JSON; `None` if it has to be asked for with [`TYPE_QUERY`].
    #[must_use]
    pub fn get(&self, oid: u32) -> Option<Arc<Type>> {
        self.known(oid).map(|known| Arc::clone(&known.kind))
    }

    /// `pg_type.typname` of the type, as `columns[].type` shows it (`database.md 2.7`); `None` as for [`Self::get`].
    #[must_use]
    pub fn name(&self, oid: u32) -> Option<&str> {
        self.known(oid).map(|known| &*known.name)
    }

    /// Adds the rows of [`TYPE_QUERY`], replacing what was known of their oids. Built-in types cannot be replaced.
    ///
    /// The order of the rows does not matter. A type whose parts are neither among the rows nor known, or that nests
    /// deeper than [`MAX_LEVELS`], becomes [`Type::Text`].
    pub fn extend(&mut self, rows: impl IntoIterator<Item = TypeRow>) {
        let mut waiting: HashMap<u32, TypeRow> = rows
            .into_iter()
            .filter(|row| !BUILT_IN.contains_key(&row.oid))
            .map(|row| (row.oid, row))
            .collect();
        for oid in waiting.keys() {
            self.added.remove(oid);
        }
        // Each round builds the types whose parts were built before it. What is left when a round finds none is part
        // of a circle, has a part that is missing, or is made of such a type.
        loop {
            let ready: Vec<TypeRow> = waiting
                .extract_if(|_, row| row.parts().all(|part| self.known(part).is_some()))
                .map(|(_, row)| row)
                .collect();
            if ready.is_empty() {
                break;
            }
            for row in ready {
                let levels = 1 + row
                    .parts()
                    .filter_map(|part| self.known(part))
                    .map(|part| part.levels)
                    .max()
                    .unwrap_or(0);
                if levels > MAX_LEVELS {
                    self.add(row, Type::Text.into(), 1);
                } else {
                    let kind = self.kind(&row);
                    self.add(row, kind, levels);
                }
            }
        }
        for row in waiting.into_values() {
            self.add(row, Type::Text.into(), 1);
        }
    }

    fn add(&mut self, row: TypeRow, kind: Arc<Type>, levels: usize) {
        self.added.insert(
            row.oid,
            Known {
                name: row.name.into(),
                kind,
                levels,
            },
        );
    }

    fn known(&self, oid: u32) -> Option<&Known> {
        BUILT_IN.get(&oid).or_else(|| self.added.get(&oid))
    }

    /// What `row` describes; all its parts are known.
    fn kind(&self, row: &TypeRow) -> Arc<Type> {
        let part = |oid: u32| self.get(oid).unwrap_or_else(|| Arc::new(Type::Text));
        if let Some(base) = row.base {
            return part(base);
        }
        Arc::new(if let Some(element) = row.element {
            let delimiter = row.delimiter.bytes().next().filter(u8::is_ascii).unwrap_or(b',');
            Type::Array {
                element: part(element),
                delimiter,
            }
        } else if let (Some(names), Some(types)) = (&row.attribute_names, &row.attribute_types) {
            Type::Composite {
                fields: names
                    .iter()
                    .zip(types)
                    .map(|(name, kind)| Field::new(name, part(*kind)))
                    .collect(),
            }
        } else if row.name == "hstore" && row.extension.as_deref() == Some("hstore") {
            Type::Hstore
        } else {
            Type::Text
        })
    }
}
